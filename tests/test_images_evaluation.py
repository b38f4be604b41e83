"""Evaluation of image generators: measures against closed forms and torch-fidelity, features, files, whole runs."""

import importlib
import json
import logging
import math
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from sklearn.datasets import load_sample_image
from torch import Tensor
from typer.testing import CliRunner

from core.cli import app
from core.data import TensorDataset
from core.errors import ConfigError, DataError, RequestError
from core.metrics import frechet_distance
from core.pipeline import Pipeline, Request
from domains.images.evaluation.cli import real_images
from domains.images.evaluation.config import ImageEvaluationConfig
from domains.images.evaluation.features import EfficientNetLite0Features, PixelFeatures, make_extractors
from domains.images.evaluation.generation import GeneratedImages
from domains.images.evaluation.inception import VARIABLE, InceptionFeatures, import_fidelity
from domains.images.evaluation.measures import class_score, frechet_of_moments, kernel_distance, precision_recall
from domains.images.evaluation.moments import Moments, RunningMoments
from domains.images.evaluation.report import evaluate_folder, evaluate_generator, figure_name, markdown_table
from domains.images.evaluation.sources import DatasetImages, ImageFiles
from domains.images.evaluation.statistics import collect, read_statistics, reference_sets, statistics_file
from domains.images.write import to_bytes

PIXELS = ImageEvaluationConfig(extractors=("pixels",), kid_subsets=3, loss_levels=())


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pictures(count: int, *shape: int, seed: int = 0) -> Tensor:
    """Random uint8 images."""
    return torch.randint(0, 256, (count, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def dataset(images: Tensor) -> TensorDataset:
    return TensorDataset({"x": images.float() / 127.5 - 1})


def moments(features: Tensor, *sizes: int) -> Moments:
    running = RunningMoments(features.shape[1])
    for part in features.split(list(sizes) or len(features)):
        running.add(part)
    return running.result()


def fidelity_module(name: str) -> Any:
    import_fidelity()
    return importlib.import_module(f"torch_fidelity.{name}")


# Measures


def test_frechet_distance_of_two_gaussians_in_closed_form() -> None:
    """Commuting covariances: |m1 - m2|^2 + sum (s1 - s2)^2."""
    first = Moments(torch.tensor([0.0, 1.0], dtype=torch.float64), torch.diag(torch.tensor([4.0, 9.0])).double())
    second = Moments(torch.tensor([3.0, 1.0], dtype=torch.float64), torch.diag(torch.tensor([1.0, 0.0])).double())
    assert frechet_of_moments(first, second) == pytest.approx(9 + 1 + 9)
    with pytest.raises(DataError, match="2 and 3 features"):
        frechet_of_moments(first, Moments(torch.zeros(3).double(), torch.eye(3).double()))


def test_frechet_distance_equals_the_core_s_and_torch_fidelity_s() -> None:
    first, second = normal(60, 5), normal(50, 5, seed=1) * 2 + 0.3
    ours = frechet_of_moments(moments(first), moments(second))
    assert ours == pytest.approx(frechet_distance(first, second), rel=1e-10)
    theirs = fidelity_module("metric_fid")
    stats = [theirs.fid_features_to_statistics(each) for each in (first, second)]
    assert ours == pytest.approx(theirs.fid_statistics_to_metric(*stats, False)["frechet_inception_distance"], rel=1e-8)


@pytest.mark.parametrize("sizes", [(41,), (1, 40), (20, 0, 21), (7, 7, 7, 20)])
def test_streamed_moments_are_those_of_all_samples(sizes: tuple[int, ...]) -> None:
    features = normal(41, 4) + 1e6  # an offset that a difference of raw sums would not survive
    found = moments(features, *sizes)
    assert found.count == 41
    np.testing.assert_allclose(found.mean, features.mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.covariance, np.cov(features.numpy(), rowvar=False), rtol=1e-8, atol=1e-8)


def test_a_single_image_has_no_covariance() -> None:
    with pytest.raises(DataError, match="at least two images, not 1"):
        moments(normal(1, 4))


def test_kernel_distance_equals_torch_fidelity_s() -> None:
    """Subsets of all samples, so that it does not matter in which order they are drawn."""
    first, second = normal(40, 6), normal(40, 6, seed=1) + 0.5
    theirs = fidelity_module("metric_kid").kid_features_to_metric(
        first, second, kid_subsets=2, kid_subset_size=40, rng_seed=2020, verbose=False
    )
    mean, spread = kernel_distance(first, second, subsets=2, size=40)
    assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-10)
    assert spread == pytest.approx(0, abs=1e-12)


def test_kernel_distance_is_unbiased_and_its_subsets_depend_on_the_seed_alone() -> None:
    """The mean over subsets estimates the distance of the whole sets; over equal distributions it is around zero."""
    first, second = normal(60, 6), normal(60, 6, seed=1) + 0.5
    whole, _ = kernel_distance(first, second, subsets=1, size=60)
    mean, spread = kernel_distance(first, second, subsets=100, size=15)
    assert mean == pytest.approx(whole, abs=4 * spread / 100**0.5)
    assert kernel_distance(first, second, 5, 15, seed=1) == kernel_distance(first, second, 5, 15, seed=1)
    assert kernel_distance(first, second, 5, 15, seed=1) != kernel_distance(first, second, 5, 15, seed=2)
    mean, spread = kernel_distance(normal(2000, 6), normal(2000, 6, seed=1), subsets=100, size=20)
    assert abs(mean) < 4 * spread / 100**0.5


def test_kernel_distance_of_two_points_by_hand() -> None:
    """k(x, y) = (xy + 1)^3 on {0, 1} and {1, 2}: k(0,1) + k(1,2) - 2 mean(1, 1, 8, 27)."""
    first, second = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]])
    mean, spread = kernel_distance(first, second, subsets=2, size=2)
    assert mean == pytest.approx(1 + 27 - 2 * 37 / 4)
    assert spread == 0
    with pytest.raises(DataError, match="subsets of 3"):
        kernel_distance(first, second, size=3)


@pytest.mark.parametrize("block", [7, 1024])
def test_precision_and_recall_equal_torch_fidelity_s(block: int) -> None:
    first, second = normal(45, 3) * 0.7, normal(60, 3, seed=1)
    theirs = fidelity_module("metric_prc").prc_features_to_metric(
        first, second, prc_neighborhood=3, prc_batch_size=10, save_cpu_ram=False, verbose=False
    )
    precision, recall = precision_recall(first, second, block=block)
    assert precision == pytest.approx(theirs["precision"])
    assert recall == pytest.approx(theirs["recall"])
    assert 0 < recall < precision < 1  # the sets were chosen so that the two are not confused


def test_precision_and_recall_of_known_sets() -> None:
    real = torch.cat([normal(20, 2), normal(20, 2, seed=1) + 100])  # two modes
    assert precision_recall(real, real) == (1, 1)
    assert precision_recall(real[:20], real) == (1, 0.5)  # one mode missed
    assert precision_recall(torch.cat([real, normal(40, 2, seed=2) - 100]), real) == (0.5, 1)  # one mode invented
    assert precision_recall(real + 1000, real) == (0, 0)
    with pytest.raises(DataError, match="3 neighbours"):
        precision_recall(real[:3], real)


def test_class_score_equals_torch_fidelity_s_and_its_closed_forms() -> None:
    logits = normal(57, 8) * 2
    order = np.random.default_rng(3).permutation(57)
    theirs = fidelity_module("metric_isc").isc_features_to_metric(logits[order], splits=4, shuffle=False)
    mean, spread = class_score(logits, splits=4, seed=3)
    assert mean == pytest.approx(theirs["inception_score_mean"], rel=1e-12)
    assert spread == pytest.approx(theirs["inception_score_std"], rel=1e-10)
    assert class_score(torch.zeros(20, 8), 2) == pytest.approx((1, 0))
    certain = 1000 * torch.eye(8)  # each image surely of a class of its own: as many as there are classes
    assert class_score(certain, 1) == pytest.approx((8, 0))
    with pytest.raises(DataError, match="9 splits"):
        class_score(certain, 9)


# Feature spaces


def test_lite0_has_the_features_of_its_original() -> None:
    """Reference: the network of efficientnet_lite_pytorch 0.1.0 with the same weights, on the same pixels."""
    extractor = EfficientNetLite0Features()
    features = extractor(pictures(2, 3, 32, 32))
    assert features.shape == (2, extractor.dim)
    top = features.topk(3)
    np.testing.assert_array_equal(top.indices, [[504, 434, 747], [504, 747, 1259]])
    np.testing.assert_allclose(top.values, [[5.3226, 4.2383, 3.7391], [4.9940, 4.5258, 4.3025]], atol=2e-4)
    np.testing.assert_allclose(features.sum(1), [140.3692, 153.7646], rtol=1e-5)
    flower = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1)[None]
    assert extractor.logits(extractor(flower)).argmax() == 985  # ImageNet's daisy; the picture is of a dahlia


def test_lite0_takes_grey_images_and_no_others() -> None:
    extractor, grey = EfficientNetLite0Features(), pictures(2, 1, 8, 8)
    torch.testing.assert_close(extractor(grey), extractor(grey.expand(-1, 3, -1, -1)))
    torch.testing.assert_close(extractor(grey)[1:], extractor(grey[1:]), atol=1e-4, rtol=1e-4)
    with pytest.raises(DataError, match="2 channels"):
        extractor(pictures(1, 2, 8, 8))


def test_pixels_are_themselves_and_not_too_many() -> None:
    extractor = PixelFeatures((1, 1, 2))
    torch.testing.assert_close(extractor(torch.tensor([[[[0, 255]]]], dtype=torch.uint8)), torch.tensor([[-1.0, 1.0]]))
    assert extractor.logits(torch.zeros(3, 2)).shape == (3, 0)
    with pytest.raises(DataError, match="2 numbers"):
        extractor(pictures(1, 1, 2, 2))
    with pytest.raises(ConfigError, match="12288"):
        PixelFeatures((3, 64, 64))


@pytest.fixture(scope="module")
def random_inception(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A file of random weights of the FID network, and torch-fidelity's network with them."""
    fidelity, folder = import_fidelity(), tmp_path_factory.mktemp("inception")

    class Untrained(fidelity.FeatureExtractorInceptionV3):  # type: ignore[name-defined, misc]
        def load_state_dict(self, *_: Any, **__: Any) -> None:
            pass

    torch.manual_seed(0)
    empty, path = folder / "empty.pth", folder / "weights.pth"
    torch.save({}, empty)
    network = Untrained("random", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(empty))
    torch.save(network.state_dict(), path)
    return path, network


def test_inception_is_torch_fidelity_s_and_named_after_its_weights(
    random_inception: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, network = random_inception
    monkeypatch.setenv(VARIABLE, str(path))
    extractor, images = InceptionFeatures(), pictures(2, 3, 32, 32)
    features = extractor(images)
    expected, logits = network(images)
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(extractor.logits(features), logits)
    assert not torch.allclose(expected[0], expected[1])
    assert extractor.name.startswith("inception_")  # other weights: no FID
    assert figure_name("frechet", extractor.name, 2).startswith("fd_inception_")


def test_missing_inception_weights_say_what_to_get_and_where_to_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    config = ImageEvaluationConfig(extractors=("inception",))
    with pytest.raises(ConfigError, match=r"(?s)6726825d\.pth.*https://.*inception_weights.*" + VARIABLE):
        make_extractors(config, (3, 8, 8))
    with pytest.raises(ConfigError, match=r"no file .*absent\.pth"):
        InceptionFeatures(str(tmp_path / "absent.pth"))


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_inception_weights_are_not_executed(tmp_path: Path) -> None:
    path, sprung = tmp_path / "weights.pth", tmp_path / "sprung"
    for content in ({"fc.weight": Trap(sprung)}, {"fc.weight": torch.zeros(2)}, [1, 2]):
        torch.save(content, path)
        with pytest.raises(DataError, match="not the weights of the FID network"):
            InceptionFeatures(str(path))
    assert not sprung.exists()
    path.write_bytes(b"no weights")
    with pytest.raises(DataError, match="not the weights"):
        InceptionFeatures(str(path))


# Sets of images and their statistics


def test_names_carry_measure_space_and_number() -> None:
    assert figure_name("frechet", "inception", 50_000) == "fid_inception_50k"
    assert figure_name("kernel_std", "inception", 1234) == "kid_inception_1234_std"
    assert figure_name("frechet", "pixels", 2000) == "fd_pixels_2k"
    assert figure_name("score", "efficientnet_lite0", 10) == "cs_efficientnet_lite0_10"
    assert figure_name("recall", "pixels", 10) == "recall_pixels_10"


def test_kept_features_are_spread_evenly_however_the_images_come() -> None:
    images, extractor = pictures(23, 1, 2, 2), PixelFeatures((1, 2, 2))
    whole = collect([extractor], [images], 23, kept=5)["pixels"]
    pieces = collect([extractor], images.split(4), 23, kept=5, batch=3)["pixels"]
    torch.testing.assert_close(whole.kept, extractor(images)[[0, 4, 9, 13, 18]])
    torch.testing.assert_close(pieces.kept, whole.kept)
    torch.testing.assert_close(pieces.moments.covariance, whole.moments.covariance)
    with pytest.raises(DataError, match="24 images were announced, and 23 came"):
        collect([extractor], [images], 24, kept=5)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DISCO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Counting(PixelFeatures):
    calls = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.calls += 1
        return super().__call__(images)


def test_real_features_are_computed_once_and_again_after_damage(
    cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("disco"), "propagate", True)  # earlier tests may have set up the log
    extractor, source = Counting((1, 2, 2)), DatasetImages(dataset(pictures(20, 1, 2, 2)))
    first = reference_sets([extractor], source, "train", 6)["pixels"]
    again = reference_sets([extractor], source, "train", 6)["pixels"]
    assert extractor.calls == 1
    for one, other in ((first.kept, again.kept), (first.moments.covariance, again.moments.covariance)):
        assert torch.equal(one, other)
    assert (again.moments.count, again.shape) == (20, (1, 2, 2))
    path = statistics_file(extractor, source, "train", 6)
    assert cache in path.parents
    content = bytearray(path.read_bytes())
    arrays = dict(np.load(path))
    arrays["mu"] = arrays["mu"] + 1  # a whole file whose numbers are others
    np.savez(path, **arrays)
    with pytest.raises(DataError, match="checksum"):
        read_statistics(path)
    for calls, damaged in enumerate((path.read_bytes(), bytes(content[:-200]), b""), start=2):
        path.write_bytes(damaged)
        with caplog.at_level("WARNING", logger="disco"):
            cured = reference_sets([extractor], source, "train", 6)["pixels"]
        assert extractor.calls == calls
        assert "computed again" in caplog.text
        assert torch.equal(cured.moments.mean, first.moments.mean)
        caplog.clear()


def test_cached_features_belong_to_one_content_extractor_split_and_number(cache: Path) -> None:
    extractor, source = PixelFeatures((1, 2, 2)), DatasetImages(dataset(pictures(20, 1, 2, 2)))
    other = DatasetImages(dataset(pictures(20, 1, 2, 2, seed=1)))
    changed = PixelFeatures((1, 2, 2))
    changed.identity = "pixels-of-other-weights"
    files = {
        statistics_file(extractor, source, "train", 6), statistics_file(extractor, other, "train", 6),
        statistics_file(changed, source, "train", 6), statistics_file(extractor, source, "val", 6),
        statistics_file(extractor, source, "train", 7),
    }  # fmt: skip
    assert len(files) == 5


def test_reference_files_of_others_are_read_without_executing_them(tmp_path: Path) -> None:
    path, mu, sigma = tmp_path / "other.npz", np.arange(3.0), np.diag([1.0, 2.0, 3.0])
    np.savez(path, mu=mu, sigma=sigma)
    found = read_statistics(path)
    assert found.moments.mean.tolist() == [0, 1, 2]
    assert (found.moments.count, found.shape, found.kept.shape) == (0, None, (0, 3))
    sprung = tmp_path / "sprung"
    for arrays, message in (
        ({"mu": mu}, "no 'mu' and 'sigma'"),
        ({"mu": mu, "sigma": sigma[:2]}, "no mean and covariance"),
        ({"mu": mu * np.nan, "sigma": sigma}, "not finite"),
        ({"mu": mu, "sigma": np.array([Trap(sprung)], dtype=object)}, "not a readable npz"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(DataError, match=message):
            read_statistics(path)
    assert not sprung.exists()
    with pytest.raises(DataError, match="no such file"):
        read_statistics(tmp_path / "absent.npz")


def test_a_reference_file_of_inception_features_needs_that_extractor(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="add 'inception'"):
        ImageEvaluationConfig(extractors=("pixels",), reference="edm.npz")
    save(pictures(4, 1, 2, 2), tmp_path / "images")
    with pytest.raises(ConfigError, match="say nothing for pixels"):
        evaluate_folder(tmp_path / "images", tmp_path / "edm.npz", PIXELS)


def test_fid_against_a_reference_file(random_inception: tuple[Path, Any], tmp_path: Path) -> None:
    images = pictures(3, 3, 8, 8)
    features = random_inception[1](images)[0].double().numpy()
    np.savez(tmp_path / "edm.npz", mu=features.mean(0), sigma=np.cov(features, rowvar=False))
    save(images, tmp_path / "images")
    config = ImageEvaluationConfig(extractors=("inception",), inception_weights=str(random_inception[0]))
    values = evaluate_folder(tmp_path / "images", tmp_path / "edm.npz", config)
    ((frechet, value), *others) = values.items()
    assert frechet.startswith("fd_inception_")
    assert value == pytest.approx(0, abs=1e-6)
    assert [name.split("_")[0] for name, _ in others] == ["cs", "cs"]  # no features of real images: no KID


def test_statistics_and_image_files_are_references_by_their_path(tmp_path: Path) -> None:
    np.savez(tmp_path / "edm.npz", mu=np.zeros(2), sigma=np.eye(2))
    for path in (tmp_path / "edm.npz", save(pictures(2, 3, 4, 4), tmp_path / "images"), tmp_path / "images.zip"):
        assert real_images(path) == path


def test_arrays_of_images_are_references(tmp_path: Path) -> None:
    images = pictures(30, 1, 4, 4)
    np.savez(tmp_path / "real.npz", images=images.numpy())
    mnist = tmp_path / "mnist"
    mnist.mkdir()
    for name, part in (("train", images[:20]), ("t10k", images[20:])):
        head = np.array([0x803, *part.shape[0::2], part.shape[3]], dtype=">u4").tobytes()
        (mnist / f"{name}-images-idx3-ubyte").write_bytes(head + part.numpy().tobytes())
    alone = tmp_path / "without-test-images"
    alone.mkdir()
    shutil.copy(mnist / "train-images-idx3-ubyte", alone)
    files = ((tmp_path / "real.npz", 30), (mnist, 20), (mnist / "t10k-images-idx3-ubyte", 10), (alone, 20))
    for path, count in files:
        found = real_images(path)
        assert not isinstance(found, Path)
        assert len(found) == count
    generated = save(images, tmp_path / "images")
    done = CliRunner().invoke(
        app, ["score", str(generated), "--reference", str(tmp_path / "real.npz"), "--features", "pixels", "-q"]
    )
    assert done.exit_code == 0, done.output
    assert "fd_pixels_30" in done.output


def test_references_that_are_neither_images_nor_statistics_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    (tmp_path / "damaged.npz").write_bytes(b"PK")
    for name, reason in (("other", "it has weights"), ("damaged", "cannot be read"), ("absent", "does not exist")):
        with pytest.raises(DataError, match=rf"{name}\.npz: .*{reason}"):
            real_images(tmp_path / f"{name}.npz")


# Images that anyone made


def save(images: Tensor, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        array = image.permute(1, 2, 0).numpy()
        Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(folder / f"{number:03d}.png")
    return folder


@pytest.mark.parametrize("channels", [1, 3])
def test_folder_and_zip_hold_the_same_images(tmp_path: Path, channels: int) -> None:
    images = pictures(5, channels, 4, 6)
    folder = save(images, tmp_path / "images")
    (folder / "notes.txt").write_text("no image")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    for source in (ImageFiles(folder), ImageFiles(tmp_path / "images.zip")):
        assert torch.equal(torch.cat(list(source.batches(2))), images)
        assert source.shape == (channels, 4, 6)
        assert source.content_hash == ImageFiles(folder).content_hash
    save(images[:1] ^ 255, folder)
    assert ImageFiles(folder).content_hash != ImageFiles(tmp_path / "images.zip").content_hash


def test_files_that_cannot_be_measured_are_named(tmp_path: Path) -> None:
    folder = save(pictures(3, 3, 4, 4), tmp_path / "images")
    save(pictures(1, 3, 5, 4), tmp_path / "other")
    shutil.copy(tmp_path / "other" / "000.png", folder / "odd.png")
    with pytest.raises(DataError, match=r"odd\.png.*\(3, 5, 4\)"):
        list(ImageFiles(folder).batches(2))
    (folder / "odd.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"odd\.png: not a readable image"):
        list(ImageFiles(folder).batches(2))
    with pytest.raises(DataError, match="neither a folder nor a readable zip"):
        len(ImageFiles(folder / "odd.png"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        len(ImageFiles(tmp_path / "empty"))
    with pytest.raises(DataError, match="no such folder"):
        len(ImageFiles(tmp_path / "absent"))


def test_a_folder_is_measured_against_data_and_against_a_folder(cache: Path, tmp_path: Path) -> None:
    real = pictures(40, 1, 3, 3)
    folder, other = save(real, tmp_path / "same"), save(real[:30] // 2, tmp_path / "darker")
    same = evaluate_folder(folder, dataset(real), PIXELS)
    assert same["fd_pixels_40"] == pytest.approx(0, abs=1e-9)
    assert (same["precision_pixels_40"], same["recall_pixels_40"]) == (1, 1)
    darker = evaluate_folder(other, folder, PIXELS, tmp_path / "out")
    exact = frechet_distance(*(each.flatten(1).double() / 127.5 - 1 for each in (real, real[:30] // 2)))
    assert darker["fd_pixels_30"] == pytest.approx(exact, rel=1e-5)
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert record["rows"]["images"] == darker
    assert record["extractors"]["pixels"] == {"identity": "pixels", "real": {"images": 40, "kept": 40}}
    assert "| fd_pixels_30 |" in (tmp_path / "out" / "metrics.md").read_text()
    save(pictures(4, 1, 3, 4), tmp_path / "wide")
    with pytest.raises(DataError, match=r"make them alike|9 numbers"):
        evaluate_folder(folder, tmp_path / "wide", PIXELS)


# Models


@pytest.fixture(scope="module")
def pipeline(trained: Callable[[str], Path]) -> Pipeline:
    return Pipeline.from_pretrained(trained("images"), "cpu")


@pytest.mark.parametrize(
    "request_",
    [
        Request(count=7, first=3, seed=1, batch_size=3, steps=2),
        Request(count=5, batch_size=2, steps=2, share_latents=True, label=[1, 2, 3, 4, 5]),
        Request(count=4, batch_size=3, steps=2, codes=torch.tensor([[0, 1, 2], [1, 1, 1], [2, 3, 0], [3, 0, -1]])),
    ],
)
def test_streamed_images_are_those_of_the_pipeline(pipeline: Pipeline, request_: Request) -> None:
    images = GeneratedImages(pipeline, request_)
    whole = pipeline.generate(request_)
    streamed = list(images)
    assert max(len(part) for part in streamed) == request_.batch_size
    assert torch.equal(torch.cat(streamed), to_bytes(whole.state["x"]))
    assert images.nfe == whole.nfe == 3


def test_evaluation_of_a_model(pipeline: Pipeline, cache: Path, tmp_path: Path) -> None:
    config = ImageEvaluationConfig(
        extractors=("pixels",), kept=30, kid_subsets=3, latents=("prior", "encoder", "dropped"),
        nfe_steps=(2, 1), nfe_samplers=("heun", "euler"), nfe_samples=20, loss_levels=(0.1, 1.0), loss_samples=8,
    )  # fmt: skip
    request = Request(seed=1, steps=2, batch_size=16)
    rows = evaluate_generator(pipeline, request, config, tmp_path, count=40)
    assert list(rows) == ["generated", "encoder latents", "dropped latents"]
    columns = ["fd_pixels_40", "kd_pixels_30", "kd_pixels_30_std", "precision_pixels_30", "recall_pixels_30", "nfe"]
    assert all(list(row) == columns for row in rows.values())
    generated = to_bytes(pipeline.generate(request, count=40).state["x"])
    real = to_bytes(pipeline.domain.dataset("train").load(range(1617), range(1617)).clean["x"])
    exact = frechet_distance(*(each.flatten(1).double() / 127.5 - 1 for each in (generated, real)))
    assert rows["generated"]["fd_pixels_40"] == pytest.approx(exact, rel=1e-5)
    assert rows["generated"]["nfe"] == 3
    assert len({row["fd_pixels_40"] for row in rows.values()}) == 3  # the sources differ
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert record["rows"] == rows
    assert record["nfe"]["fd_pixels_20"]["heun"]["levels"] == [1, 3]
    assert record["nfe"]["fd_pixels_20"]["euler"]["levels"] == [1, 2]
    assert all(math.isfinite(v) for curve in record["nfe"]["fd_pixels_20"].values() for v in curve["values"])
    assert set(record["loss"]) == {"with latents", "latents dropped"}
    assert record["data"]["content_hash"] == pipeline.domain.dataset("train").content_hash
    assert (tmp_path / "metrics.md").read_text() == markdown_table(rows)
    for picture in ("loss.png", "nfe-pixels.png"):
        with Image.open(tmp_path / picture) as image:
            assert image.size[0] > 100


def test_latents_that_a_model_does_not_have_are_refused(pipeline: Pipeline) -> None:
    bare = Pipeline(pipeline.domain, {"denoiser": pipeline.networks["denoiser"]})
    with pytest.raises(RequestError, match="no encoder"):
        GeneratedImages(bare, Request(), "encoder")
    with pytest.raises(RequestError, match="no prior"):
        next(iter(GeneratedImages(bare, Request())))
    assert len(next(iter(GeneratedImages(bare, Request(count=2, steps=1), "dropped")))) == 2


def test_a_plain_model_has_one_row(trained: Callable[[str], Path], cache: Path, tmp_path: Path) -> None:
    plain = Pipeline.from_pretrained(trained("images-plain"), "cpu")
    real = dataset(pictures(9, 1, 8, 8))
    rows = evaluate_generator(plain, Request(steps=1), PIXELS, tmp_path, 3, real)
    assert json.loads((tmp_path / "metrics.json").read_text())["data"]["content_hash"] == real.content_hash
    assert list(rows) == ["generated"]
    assert list(rows["generated"]) == ["fd_pixels_3", "kd_pixels_3", "kd_pixels_3_std", "nfe"]  # too few neighbours
