def test_a(trained):
    for n in ["toy", "toy-plain", "toy-gaussian", "images", "images-plain", "images-gaussian"]:
        trained(n)
