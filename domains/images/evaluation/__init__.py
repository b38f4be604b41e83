"""How good generated images are: Frechet and kernel distances, precision and recall, class scores (docs page
images-evaluation.md)."""
