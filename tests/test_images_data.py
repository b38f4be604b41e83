"""Image data: every format read and refused, batches, preparation, the command."""

import gzip
import hashlib
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from core.errors import ConfigError, DataError
from core.interfaces import Dataset
from domains.images.data import ImageDataset, load_images, open_source
from domains.images.data.cli import data as command
from domains.images.data.config import ImageDataConfig
from domains.images.data.fetch import PUBLISHED, Published, fetch
from domains.images.data.prepare import Preparation, checksum_file, fit, prepare, verify, verify_path
from domains.images.data.sources import ImageSource, held_out
from tests.support import SHARED_DATA

FASHION = SHARED_DATA / "images" / "fashion_mnist.npz"


def pixels(count: int = 6, channels: int = 3, size: int = 8, seed: int = 0) -> np.ndarray:
    """[N, C, H, W] random bytes."""
    return np.random.default_rng(seed).integers(0, 256, (count, channels, size, size), dtype=np.uint8)


def encoded(image: np.ndarray, kind: str = "png") -> bytes:
    """One [C, H, W] image as a file; lossless where the format can."""
    buffer = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(
        buffer, kind, **({"lossless": True} if kind == "webp" else {})
    )
    return buffer.getvalue()


def folder(root: Path, images: np.ndarray, names: list[str] | None = None) -> Path:
    """PNG files, two to a class."""
    for number, image in enumerate(images):
        path = root / (names[number] if names else f"c{number // 2}/deep/{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(image))
    return root


def archive(path: Path, images: np.ndarray, labels: Any = "classes", method: int = zipfile.ZIP_STORED) -> Path:
    """EDM's format."""
    names = [f"00000/img{n:08d}.png" for n in range(len(images))]
    if labels == "classes":
        labels = [[name, n % 3] for n, name in enumerate(names)]
    with zipfile.ZipFile(path, "w", method) as file:
        for name, image in zip(names, images, strict=True):
            file.writestr(name, encoded(image))
        file.writestr("dataset.json", json.dumps({"labels": labels}))
    return path


def idx(root: Path, images: np.ndarray, labels: np.ndarray, stem: str = "train", zipped: bool = False) -> Path:
    """[N, H, W] images in the MNIST family's format."""
    header = struct.pack(">4I", 0x803, *images.shape), struct.pack(">2I", 0x801, len(labels))
    for kind, start, values in zip(("images-idx3", "labels-idx1"), header, (images, labels), strict=True):
        content = start + values.astype(np.uint8).tobytes()
        name = f"{stem}-{kind}-ubyte" + (".gz" if zipped else "")
        (root / name).write_bytes(gzip.compress(content) if zipped else content)
    return root


def cifar(root: Path, per_file: int = 4) -> tuple[Path, np.ndarray, np.ndarray]:
    """Five batches and the test batch; all images, and all labels, in that order."""
    images, labels = pixels(6 * per_file, 3, 32), np.arange(6 * per_file) % 10
    records = np.concatenate([labels[:, None].astype(np.uint8), images.reshape(len(images), -1)], 1)
    names = [f"data_batch_{n}.bin" for n in range(1, 6)] + ["test_batch.bin"]
    root.mkdir(exist_ok=True)
    for n, name in enumerate(names):
        (root / name).write_bytes(records[n * per_file : (n + 1) * per_file].tobytes())
    return root, images, labels


def all_of(source: ImageSource) -> np.ndarray:
    return source.read(range(len(source)))


def test_folders_give_classes_by_the_first_sub_folder(tmp_path: Path) -> None:
    source = open_source(folder(tmp_path, pixels()), "all")
    assert np.array_equal(all_of(source), pixels())
    assert (source.labels is not None, source.classes) == (True, 3)
    assert source.labels.tolist() == [0, 0, 1, 1, 2, 2]  # type: ignore[union-attr]


def test_images_side_by_side_have_no_classes(tmp_path: Path) -> None:
    source = open_source(folder(tmp_path, pixels(), [f"{n}.png" for n in range(6)]), "all")
    assert (source.labels, source.classes, source.shape) == (None, 0, (3, 8, 8))


def test_dataset_json_beats_sub_folders(tmp_path: Path) -> None:
    folder(tmp_path, pixels(2), ["a/0.png", "b/1.png"])
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": [["b/1.png", 4], ["a/0.png", 2]]}))
    source = open_source(tmp_path, "all")
    assert (source.labels.tolist(), source.classes) == ([2, 4], 5)  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["png", "bmp", "webp"])
def test_lossless_formats_keep_every_pixel(tmp_path: Path, kind: str) -> None:
    (tmp_path / f"0.{kind}").write_bytes(encoded(pixels(1)[0], kind))
    assert np.array_equal(all_of(open_source(tmp_path, "all")), pixels(1))


def test_jpeg_is_read_as_pillow_reads_it(tmp_path: Path) -> None:
    content = encoded(pixels(1)[0], "jpeg")
    (tmp_path / "0.JPG").write_bytes(content)
    expected = np.asarray(Image.open(io.BytesIO(content))).transpose(2, 0, 1)
    assert np.array_equal(all_of(open_source(tmp_path, "all"))[0], expected)


def test_grey_and_colour_together_are_read_as_colour(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(encoded(pixels(1, 1)[0]))
    assert open_source(tmp_path, "all").shape == (1, 8, 8)
    (tmp_path / "1.png").write_bytes(encoded(pixels(1, 3)[0]))
    both = all_of(open_source(tmp_path, "all"))
    assert np.array_equal(both, np.stack([pixels(1, 1)[0].repeat(3, 0), pixels(1, 3)[0]]))
    assert open_source(tmp_path, "all", channels=1).shape == (1, 8, 8)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_edm_archives_are_read(tmp_path: Path, method: int) -> None:
    source = open_source(archive(tmp_path / "x.zip", pixels(), method=method), "all")
    assert np.array_equal(all_of(source), pixels())
    assert source.labels.tolist() == [0, 1, 2, 0, 1, 2]  # type: ignore[union-attr]
    again = pickle.loads(pickle.dumps(source))  # as loader processes get it
    assert np.array_equal(all_of(again), pixels())


def test_an_archive_may_have_no_labels(tmp_path: Path) -> None:
    assert open_source(archive(tmp_path / "x.zip", pixels(), None), "all").labels is None


def test_cifar_10_is_read_with_its_test_set_as_validation(tmp_path: Path) -> None:
    root, images, labels = cifar(tmp_path / "cifar-10-batches-bin")
    for path in (root, tmp_path):
        train, val, every = (open_source(path, split) for split in ("train", "val", "all"))
        assert np.array_equal(all_of(train), images[:20])
        assert np.array_equal(all_of(val), images[20:])
        assert np.array_equal(all_of(every), images)
        assert every.labels.tolist() == labels.tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_are_read(tmp_path: Path, zipped: bool) -> None:
    images = pixels(5, 1)
    idx(tmp_path, images[:3, 0], np.array([2, 0, 1]), zipped=zipped)
    idx(tmp_path, images[3:, 0], np.array([1, 2]), "t10k", zipped)
    train, val = open_source(tmp_path), open_source(tmp_path, "val")
    assert np.array_equal(all_of(train), images[:3])
    assert np.array_equal(all_of(val), images[3:])
    assert (train.labels.tolist(), val.labels.tolist()) == ([2, 0, 1], [1, 2])  # type: ignore[union-attr]
    single = open_source(next(tmp_path.glob("train-images*")), "all")
    assert np.array_equal(all_of(single), images[:3])
    assert single.classes == 3


@pytest.mark.parametrize("order", ["NCHW", "NHWC", "NHW"])
def test_npz_archives_are_read_in_any_order_of_axes(tmp_path: Path, order: str) -> None:
    images = pixels(4, 1 if order == "NHW" else 3)
    stored = {"NCHW": images, "NHWC": images.transpose(0, 2, 3, 1), "NHW": images[:, 0]}[order]
    np.savez(tmp_path / "x.npz", images=stored, labels=np.array([0, 3, 1, 0]))
    source = open_source(tmp_path / "x.npz", "all")
    assert np.array_equal(all_of(source), images)
    assert source.classes == 4


@pytest.mark.skipif(not FASHION.exists(), reason=f"no Fashion-MNIST in {FASHION}")
def test_fashion_mnist_is_read_and_its_checksum_is_compared(tmp_path: Path) -> None:
    val = open_source(FASHION, "val")
    assert (len(val), val.shape, val.classes) == (10_000, (1, 28, 28), 10)
    assert np.bincount(val.labels).tolist() == [1000] * 10  # type: ignore[arg-type]
    with np.load(FASHION) as file:
        parts = {name: file[name] for name in file.files if name.startswith("test")}
    parts["test_sha256"] = np.array("0" * 64)
    np.savez(tmp_path / "x.npz", train_xz=np.zeros(1, np.uint8), **parts)
    with pytest.raises(DataError, match="test_xz does not have the checksum"):
        open_source(tmp_path / "x.npz", "val")


def test_packed_npz_is_read_and_compared_with_its_checksum(tmp_path: Path) -> None:
    import lzma

    images = pixels(4, 1)[:, 0]

    def packed(checksum: str) -> ImageSource:
        part = np.frombuffer(lzma.compress(images.tobytes()), np.uint8)
        row = {"xz": part, "shape": np.array(images.shape), "labels": np.arange(4), "sha256": np.array(checksum)}
        np.savez(tmp_path / "x.npz", **{f"{s}_{k}": v for s in ("train", "test") for k, v in row.items()})
        return open_source(tmp_path / "x.npz", "val")

    assert np.array_equal(all_of(packed(hashlib.sha256(images.tobytes()).hexdigest()))[:, 0], images)
    with pytest.raises(DataError, match="does not have the checksum"):
        packed("0" * 64)


def test_digits_are_those_of_load_images_as_bytes() -> None:
    for split in ("train", "val", "all"):
        source, exact = open_source("digits", split), load_images("digits", split)
        batch = ImageDataset(source).load(range(50), range(50))
        assert len(source) == len(exact)
        torch.testing.assert_close(batch.clean["x"], exact.fields["x"][:50], atol=0.004, rtol=0)
        assert torch.equal(batch.label, exact.label[:50])  # type: ignore[arg-type, index]


@pytest.mark.parametrize(("count", "share", "expected"), [(25, 0.1, 3), (1000, 0.05, 50), (7, 0.0, 0), (9, 0.5, 5)])
def test_validation_samples_are_a_fixed_evenly_spread_share(count: int, share: float, expected: int) -> None:
    mask = held_out(count, share)
    assert mask.sum() == expected
    if share == 0.1:
        assert mask.nonzero()[0].tolist() == [0, 10, 20]


def test_splits_are_disjoint_and_complete(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.zip", pixels(11))
    train, val = (open_source(path, split, val_share=0.3) for split in ("train", "val"))
    assert sorted([*train.numbers, *val.numbers]) == list(range(11))
    assert np.array_equal(all_of(val), pixels(11)[val.numbers])
    assert train.content_hash != val.content_hash
    assert (train.classes, val.classes) == (3, 3)
    with pytest.raises(DataError, match="no image is left for the split 'val'"):
        open_source(path, "val", val_share=0.0)


def test_the_content_hash_names_content_and_not_place(tmp_path: Path) -> None:
    first = open_source(archive(tmp_path / "a.zip", pixels()), "all")
    assert open_source(archive(tmp_path / "b.zip", pixels()), "all").content_hash == first.content_hash
    assert open_source(archive(tmp_path / "c.zip", pixels(seed=1)), "all").content_hash != first.content_hash
    assert open_source(archive(tmp_path / "d.zip", pixels(), None), "all").content_hash != first.content_hash
    folders = [open_source(folder(tmp_path / name, pixels(seed=seed)), "all") for name, seed in (("e", 0), ("f", 1))]
    assert folders[0].content_hash != folders[1].content_hash
    assert folders[0].content_hash == open_source(folder(tmp_path / "g", pixels()), "all").content_hash


def test_batches_have_pixels_between_minus_one_and_one(tmp_path: Path) -> None:
    dataset = ImageDataset(open_source(archive(tmp_path / "x.zip", pixels()), "all"))
    assert isinstance(dataset, Dataset)
    batch = dataset.load([4, 1], [70, 71])
    expected = torch.from_numpy(pixels()[[4, 1]]).float() / 127.5 - 1
    assert torch.equal(batch.clean["x"], expected)
    assert (batch.ids.tolist(), batch.label.tolist(), batch.vector) == ([70, 71], [1, 1], None)  # type: ignore[union-attr]
    assert ImageDataset(dataset.source, labels=False).load([0], [0]).label is None


def test_batches_depend_on_sample_numbers_only(tmp_path: Path) -> None:
    source = open_source(archive(tmp_path / "x.zip", pixels(12)), "all")
    dataset = ImageDataset(source, flip=True, augment=0.6, seed=3)
    whole = dataset.load(range(12), range(100, 112))
    for place in (0, 7, 11):
        alone = dataset.load([place], [100 + place])
        assert torch.equal(alone.clean["x"][0], whole.clean["x"][place])
        assert torch.equal(alone.vector[0], whole.vector[place])  # type: ignore[index]
    assert whole.vector.shape == (12, 9)  # type: ignore[union-attr]
    other = dataset.load(range(12), range(12))
    assert not torch.equal(other.clean["x"], whole.clean["x"])


def test_flips_mirror_about_half_of_the_images(tmp_path: Path) -> None:
    source = open_source(archive(tmp_path / "x.zip", pixels(1)), "all")
    batch = ImageDataset(source, flip=True).load([0] * 400, range(400))
    plain = torch.from_numpy(pixels(1)).float() / 127.5 - 1
    mirrored = (batch.clean["x"] == plain.flip(3)).flatten(1).all(1)
    assert (mirrored | (batch.clean["x"] == plain).flatten(1).all(1)).all()
    assert 160 < int(mirrored.sum()) < 240
    assert batch.vector is None


def test_workers_load_the_same_batches(tmp_path: Path) -> None:
    source = open_source(archive(tmp_path / "x.zip", pixels(8)), "all")
    dataset = ImageDataset(source, augment=0.5)
    dataset.load([0], [0])  # the archive is open before the processes start

    class Batches:
        def __getitem__(self, n: int) -> Any:
            return dataset.load([2 * n, 2 * n + 1], [2 * n, 2 * n + 1])

    loader = torch.utils.data.DataLoader(Batches(), batch_size=None, sampler=range(4), num_workers=2)  # type: ignore
    whole = dataset.load(range(8), range(8))
    assert torch.equal(torch.cat([batch.clean["x"] for batch in loader]), whole.clean["x"])


def test_requirements_of_a_model_are_compared(tmp_path: Path) -> None:
    source = open_source(archive(tmp_path / "x.zip", pixels()), "all")
    assert source.require((3, 8, 8), 3) is source
    with pytest.raises(DataError, match=r"8 x 8 pixels with 3 .* made for 16 x 16 pixels with 3"):
        source.require((3, 16, 16), 3)
    with pytest.raises(DataError, match=r"img00000002\.png: label 2, and the model has classes 0 to 1"):
        source.require((3, 8, 8), 2)
    with pytest.raises(DataError, match="has no labels, and the model has 10 classes"):
        open_source(archive(tmp_path / "y.zip", pixels(), None), "all").require((3, 8, 8), 10)


def damaged_png(cut: int) -> bytes:
    return encoded(pixels(1)[0])[:cut]


def flipped_png() -> bytes:
    content = bytearray(encoded(pixels(1)[0]))
    content[60] ^= 0xFF
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be decoded"),
        (b"no image at all", "cannot be decoded"),
        (damaged_png(20), "cannot be decoded|end of the file"),
        (damaged_png(-20), "end of the file is missing"),
        (encoded(pixels(1)[0], "jpeg")[:-40], "end of the file is missing"),
        (encoded(pixels(1)[0], "webp")[:-40], "cannot be decoded|end of the file"),
        (encoded(pixels(1)[0], "bmp")[:-40], "end of the file is missing"),
        (encoded(pixels(1, size=9)[0]), "9 x 9 pixels and .*8 x 8"),
    ],
)
def test_bad_images_are_found_before_training_from_headers(tmp_path: Path, content: bytes, reason: str) -> None:
    folder(tmp_path, pixels(3), [f"{n}.png" for n in range(3)])
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(DataError, match=reason) as error:
        open_source(tmp_path, "all").shape  # noqa: B018
    assert "bad.png" in str(error.value)


def test_damage_inside_an_image_is_found_by_reading_and_by_verify(tmp_path: Path) -> None:
    folder(tmp_path, pixels(3), [f"{n}.png" for n in range(3)])
    (tmp_path / "bad.png").write_bytes(flipped_png())
    source = open_source(tmp_path, "all")
    assert source.shape == (3, 8, 8)
    with pytest.raises(DataError, match=r"bad\.png: cannot be decoded"):
        ImageDataset(source).load(range(4), range(4))
    with pytest.raises(DataError, match=r"1 of 4 images are damaged:\n.*bad\.png"):
        verify(source)


def test_deep_images_are_refused(tmp_path: Path) -> None:
    Image.new("I;16", (4, 4), 1000).save(tmp_path / "0.png")
    with pytest.raises(DataError, match="more than 8 bits"):
        open_source(tmp_path, "all").shape  # noqa: B018


def test_an_image_that_claims_an_absurd_size_is_refused(tmp_path: Path) -> None:
    content = bytearray(encoded(pixels(1)[0]))
    content[16:24] = struct.pack(">II", 2**30, 2**30)
    (tmp_path / "0.png").write_bytes(content)
    with pytest.raises(DataError, match="more than are accepted"):
        open_source(tmp_path, "all").shape  # noqa: B018


NAMES = ["00000/img00000000.png", "00000/img00000001.png"]


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([[NAMES[0], 0]], "1 images have no label, 00000/img00000001.png for one"),
        ([[NAMES[0], 0], ["absent.png", 1], [NAMES[1], 0]], "names absent.png, and there is no such image"),
        ([[NAMES[0], 0.5], [NAMES[1], 0]], "has label 0.5: labels are whole numbers"),
        ([[NAMES[0], True], [NAMES[1], 0]], "has label true"),
        ([[NAMES[0], -1], [NAMES[1], 0]], "has label -1"),
        ([[NAMES[0], 2**40], [NAMES[1], 0]], "whole numbers"),
        ([[NAMES[0], "cat"], [NAMES[1], 0]], 'has label "cat"'),
        ([NAMES[0]], r"is no \[name, class\]"),
        ("labels", "must be a list"),
    ],
)
def test_bad_labels_are_refused(tmp_path: Path, labels: Any, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        open_source(archive(tmp_path / "x.zip", pixels(2), labels))


@pytest.mark.parametrize("text", ["{", "[]", "{}", "[" * 100_000])
def test_a_damaged_label_file_is_refused(tmp_path: Path, text: str) -> None:
    folder(tmp_path, pixels(1))
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=r"dataset\.json: no JSON object"):
        open_source(tmp_path)


def hostile(change: Callable[[zipfile.ZipInfo], None]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        info = zipfile.ZipInfo("0.png")
        change(info)
        file.writestr(info, encoded(pixels(1)[0]))
    return buffer.getvalue()


def named(name: str) -> Callable[[zipfile.ZipInfo], None]:
    return lambda info: setattr(info, "filename", name)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (hostile(named("../0.png")), "leads out"),
        (hostile(named("a/../../0.png")), "leads out"),
        (hostile(named("/etc/0.png")), "leads out"),
        (hostile(named("C:/0.png")), "leads out"),
        (hostile(named("a\\..\\0.png")), "leads out"),
        (hostile(lambda info: setattr(info, "external_attr", 0o120777 << 16)), "symbolic link"),
        (hostile(lambda info: setattr(info, "compress_type", zipfile.ZIP_BZIP2)), "neither stored nor deflated"),
        (b"PK no zip", "no readable zip"),
        (b"", "no readable zip"),
    ],
)
def test_hostile_archives_are_refused(write: Callable[..., Path], content: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        open_source(write("x.zip", content))


def patched(path: Path, offset: int, value: bytes) -> Path:
    """The archive with bytes of its first central directory entry replaced."""
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\1\2")
    content[start + offset : start + offset + len(value)] = value
    path.write_bytes(content)
    return path


def test_encrypted_entries_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="encrypted"):
        open_source(patched(archive(tmp_path / "x.zip", pixels(1)), 8, b"\1"))


def test_zip_bombs_are_refused(tmp_path: Path) -> None:
    small = archive(tmp_path / "a.zip", pixels(1), method=zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match="cannot hold"):
        open_source(patched(small, 24, struct.pack("<I", 2**31)))
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("0.png", encoded(pixels(1)[0]) + bytes(2**20))
    lying = open_source(patched(tmp_path / "b.zip", 24, struct.pack("<I", 300)), "all")
    with pytest.raises(DataError, match="not what the archive's directory says"):
        lying.read([0])


def test_a_changed_byte_in_an_archive_is_found(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.zip", pixels(2))
    content = bytearray(path.read_bytes())
    content[150] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="not what the archive's directory says"):
        all_of(open_source(path, "all"))


def test_two_entries_of_one_name_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr("0.png", encoded(pixels()[0]))
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("0.png", encoded(pixels()[1]))
    with pytest.raises(DataError, match="two entries of the same name"):
        open_source(tmp_path / "x.zip")


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def test_damaged_cifar_files_are_refused(tmp_path: Path) -> None:
    root, _, _ = cifar(tmp_path / "c")
    cut(root / "data_batch_3.bin", 3073 * 3)  # a whole record less
    with pytest.raises(DataError, match=r"data_batch_3\.bin: .* not as many as the other files"):
        open_source(root)
    cut(root / "test_batch.bin", 5000)
    with pytest.raises(DataError, match=r"test_batch\.bin: 5000 bytes are no whole number of records"):
        open_source(root, "val")
    (root / "test_batch.bin").write_bytes(bytes([12]) + bytes(3072))
    with pytest.raises(DataError, match="record 0 has label 12"):
        open_source(root, "val")
    (root / "test_batch.bin").unlink()
    with pytest.raises(DataError, match=r"no test_batch\.bin"):
        open_source(root, "val")


def test_damaged_idx_files_are_refused(tmp_path: Path) -> None:
    def fresh(zipped: bool = False) -> Path:
        idx(tmp_path, pixels(3, 1)[:, 0], np.arange(3), zipped=zipped)
        return tmp_path / ("train-images-idx3-ubyte" + (".gz" if zipped else ""))

    cut(fresh(), 100)
    with pytest.raises(DataError, match="100 bytes, and its header promises 208"):
        open_source(tmp_path)
    fresh().write_bytes(struct.pack(">4I", 0x801, 3, 8, 8) + bytes(192))
    with pytest.raises(DataError, match="magic number 0x00000801, not 0x00000803"):
        open_source(tmp_path)
    fresh()
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 2) + bytes(2))
    with pytest.raises(DataError, match="2 labels for the 3 images"):
        open_source(tmp_path)
    with pytest.raises(DataError, match="no files for the split 'val'"):
        open_source(tmp_path, "val")
    for path in tmp_path.iterdir():
        path.unlink()
    path = fresh(zipped=True)
    cut(path, 60)
    with pytest.raises(DataError, match="cannot be read"):
        open_source(tmp_path)
    path.write_bytes(gzip.compress(struct.pack(">4I", 0x803, 3, 8, 8) + bytes(10**6)))
    with pytest.raises(DataError, match="header promises 208"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"x": np.array([{}, {}], dtype=object)}, "plain arrays"),
        ({"x": pixels(2).astype(np.float32)}, "must be uint8"),
        ({"x": pixels(2)[0, 0]}, "must be uint8"),
        ({"x": np.zeros((2, 3, 5, 3), np.uint8)}, "either axis 1 or axis 3"),
        ({"x": np.zeros((2, 4, 5, 6), np.uint8)}, "either axis 1 or axis 3"),
        ({"pictures": pixels(2)}, "no array 'x' or 'images'; it has pictures"),
        ({"x": pixels(2), "y": np.array([0.0, 1.0])}, "2 whole numbers"),
        ({"x": pixels(2), "y": np.arange(3)}, "2 whole numbers"),
        ({"x": pixels(2), "y": np.array([-1, 0])}, "numbers from 0"),
    ],
)
def test_bad_npz_archives_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], reason: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=reason):
        open_source(tmp_path / "x.npz")


def test_an_npz_that_promises_more_than_it_has_is_refused(write: Callable[..., Path]) -> None:
    buffer, member = io.BytesIO(), io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (10**6, 3, 32, 32)}
    np.lib.format.write_array_header_1_0(member, header)
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("x.npy", member.getvalue() + bytes(100))
    with pytest.raises(DataError, match="cannot be read as npz"):
        open_source(write("x.npz", buffer.getvalue()))


def test_places_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_source(tmp_path / "absent")
    with pytest.raises(DataError, match="holds no images"):
        open_source(tmp_path)
    (tmp_path / "x.txt").touch()
    with pytest.raises(DataError, match="of no known kind"):
        open_source(tmp_path / "x.txt")
    with pytest.raises(DataError, match="unknown split 'test'"):
        open_source("digits", "test")
    folder(tmp_path, pixels(2), ["a/0.png", "1.png"])
    with pytest.raises(DataError, match=r"1\.png lies beside the class folders"):
        open_source(tmp_path)


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    folder(tmp_path, pixels(1), ["0.png"])
    (tmp_path / "1.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"1\.png: cannot be read"):
        open_source(tmp_path, "all").shape  # noqa: B018


def test_prepared_archives_hold_the_same_images_and_labels(tmp_path: Path) -> None:
    source = open_source(folder(tmp_path / "in", pixels()), "all")
    out = tmp_path / "out.zip"
    report = prepare(source, out, Preparation(quiet=True))
    again = open_source(out, "all")
    assert np.array_equal(all_of(again), pixels())
    assert again.labels.tolist() == [0, 0, 1, 1, 2, 2]  # type: ignore[union-attr]
    assert (report.images, report.shape, report.counts) == (6, (3, 8, 8), (2, 2, 2))
    with zipfile.ZipFile(out) as file:
        assert {info.compress_type for info in file.infolist()} == {zipfile.ZIP_STORED}
        assert json.loads(file.read("dataset.json"))["labels"][3] == ["00000/img00000003.png", 1]
    assert checksum_file(out).read_text() == f"{hashlib.sha256(out.read_bytes()).hexdigest()}  out.zip\n"
    first = out.read_bytes()
    prepare(source, out, Preparation(quiet=True))
    assert out.read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.zip", "out.zip.sha256"]


def test_a_prepared_archive_is_compared_with_its_checksum(tmp_path: Path) -> None:
    out = tmp_path / "out.zip"
    prepare(open_source("digits", "all"), out, Preparation(limit=20, quiet=True))
    assert verify_path(str(out), quiet=True).images == 20
    out.write_bytes(out.read_bytes() + b" ")
    with pytest.raises(DataError, match=r"does not have the SHA-256 in out\.zip\.sha256"):
        verify_path(str(out), quiet=True)


def test_preparation_brings_images_to_one_size(tmp_path: Path) -> None:
    for number, (width, height) in enumerate([(20, 14), (16, 40), (9, 9)]):
        Image.new("RGB", (width, height), (200, 100, number)).save(tmp_path / f"{number}.png")
    source = open_source(tmp_path, "all")
    with pytest.raises(DataError, match="bring all images to one size first"):
        prepare(source, tmp_path / "out.zip", Preparation(quiet=True))
    assert not (tmp_path / "out.zip").exists()
    for crop in ("center-crop", "center-crop-dhariwal"):
        prepare(source, tmp_path / "out.zip", Preparation(8, crop, quiet=True))  # type: ignore[arg-type]
        assert np.array_equal(
            all_of(open_source(tmp_path / "out.zip", "all"))[:, :, 3, 3], [[200, 100, n] for n in range(3)]
        )


def test_fitting_takes_the_middle_square() -> None:
    ramp = Image.fromarray(np.tile(np.arange(100, dtype=np.uint8), (40, 1)))
    for crop in ("center-crop", "center-crop-dhariwal"):
        small = np.asarray(fit(ramp, 10, crop)).astype(float)  # type: ignore[arg-type]
        assert small.shape == (10, 10)
        assert small.mean() == pytest.approx(49.5, abs=2)
        assert np.diff(small[5])[2:-2] == pytest.approx(4, abs=1)
    same = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    assert np.array_equal(np.asarray(fit(same, 8, "center-crop")), np.asarray(same))


def test_a_limit_is_spread_over_the_classes(tmp_path: Path) -> None:
    report = prepare(open_source(folder(tmp_path / "in", pixels()), "all"), tmp_path / "o.zip", Preparation(limit=3))
    assert report.counts == (1, 1, 1)


def test_damaged_images_stop_the_preparation_or_are_left_out(tmp_path: Path) -> None:
    root = folder(tmp_path / "in", pixels())
    (root / "c1" / "deep" / "2.png").write_bytes(damaged_png(-20))
    (root / "c0" / "deep" / "1.png").write_bytes(flipped_png())
    source, out = open_source(root, "all"), tmp_path / "out.zip"
    with pytest.raises(DataError, match=r"2\.png: the end of the file is missing"):
        prepare(source, out, Preparation(quiet=True))
    assert not out.exists()
    report = prepare(source, out, Preparation(skip_damaged=True, quiet=True))
    assert (report.images, report.skipped, report.counts) == (4, 2, (1, 1, 2))
    assert np.array_equal(all_of(open_source(out, "all")), pixels()[[0, 3, 4, 5]])
    with pytest.raises(DataError, match=r"(?s)2 of 6 images are damaged:.*1\.png.*2\.png"):
        verify(source)


def published(root: Path) -> dict[str, Published]:
    """The binary CIFAR archive, small, at an address that does not exist."""
    cifar(root / "cifar-10-batches-bin")
    with tarfile.open(root / "cifar.tar.gz", "w:gz") as file:
        file.add(root / "cifar-10-batches-bin", "cifar-10-batches-bin")
    digest = hashlib.md5((root / "cifar.tar.gz").read_bytes()).hexdigest()
    return {"cifar10": Published("http://localhost:1/", (("cifar.tar.gz", digest),))}


def test_a_file_at_hand_is_checked_unpacked_and_can_be_opened(tmp_path: Path) -> None:
    here, out = tmp_path / "here", tmp_path / "out"
    here.mkdir()
    catalogue = published(here)
    fetch("cifar10", out, here / "cifar.tar.gz", catalogue)
    assert len(open_source(out)) == 20
    fetch("cifar10", out, catalogue=catalogue)  # nothing is downloaded again
    cut(out / "cifar.tar.gz", 50)
    with pytest.raises(DataError, match=r"cannot be downloaded .* give --from"):
        fetch("cifar10", out, catalogue=catalogue)
    cut(here / "cifar.tar.gz", 50)
    with pytest.raises(DataError, match=r"has MD5 .* instead of"):
        fetch("cifar10", tmp_path / "new", here, catalogue)
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(DataError, match="does not exist; it should be http"):
        fetch("cifar10", tmp_path / "new", tmp_path / "absent", catalogue)
    with pytest.raises(DataError, match="unknown data set 'imagenet'; known: cifar10, mnist, fashion-mnist"):
        fetch("imagenet", out)


def test_published_checksums_are_md5_of_distinct_files() -> None:
    sums = [md5 for one in PUBLISHED.values() for _, md5 in one.files]
    assert len(set(sums)) == len(sums) == 9
    assert all(len(bytes.fromhex(md5)) == 16 for md5 in sums)


def run(*arguments: str) -> Any:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command)
    return CliRunner().invoke(app, list(arguments))


def test_the_command_prepares_and_verifies(tmp_path: Path) -> None:
    root, out = folder(tmp_path / "in", pixels()), tmp_path / "out.zip"
    made = run("prepare", str(root), "-o", str(out), "--resolution", "4", "--channels", "1", "-q")
    assert made.exit_code == 0, made.output
    assert "6 images, 4 x 4 pixels, 1 channel(s), 3 classes of 2 to 2 images" in made.output
    checked = run("verify", str(out), "-q")
    assert "all in order" in checked.output
    cut(out, 500)
    assert isinstance(run("verify", str(out), "-q").exception, DataError)


@pytest.mark.parametrize("arguments", [("prepare", "digits"), ("prepare", "digits", "-o", "x.zip", "--channels", "2")])
def test_the_command_says_what_it_needs(arguments: tuple[str, ...]) -> None:
    assert isinstance(run(*arguments).exception, ConfigError)


def test_the_command_fetches_from_a_file_at_hand_only_if_it_is_the_right_one(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"something else")
    result = run("fetch", "cifar10", "-o", str(tmp_path / "out"), "--from", str(tmp_path), "-q")
    assert isinstance(result.exception, DataError)
    assert "has MD5" in str(result.exception)


@pytest.mark.parametrize("wrong", [{"augment": 1.5}, {"val_share": 1.0}, {"channels": 2}, {"source": ""}, {"fold": 1}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    assert ImageDataConfig().source == "digits"
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ImageDataConfig(**wrong)
