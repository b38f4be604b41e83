"""Damage that only decoding finds is found when data is opened for training, and looked for once; what is missing of a
published set is named."""

import logging
import os
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from core.errors import DataError
from domains.images.data import ImageDataset, open_source
from domains.images.data.decode import FileImages
from domains.images.data.prepare import verify_once, verify_path
from domains.images.data.sources import has_test_files
from domains.images.domain import ImageDomain
from tests.support import tiny_config
from tests.test_images_data import all_of, archive, cifar, cut, flipped_png, folder, idx, pixels

Count = Callable[[], int]


@pytest.fixture
def decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Count:
    """How many images were decoded since the last call; with an empty cache."""
    monkeypatch.setenv("DISCO_CACHE", str(tmp_path / "cache"))
    calls, real = [], FileImages.picture

    def counted(images: FileImages, number: int) -> object:
        calls.append(number)
        return real(images, number)

    def count() -> int:
        found = len(calls)
        calls.clear()
        return found

    monkeypatch.setattr(FileImages, "picture", counted)
    return count


def opened(source: Path, split: str = "train", channels: int = 3, classes: int = 0) -> ImageDataset:
    model = {"resolution": 8, "class_drop": 0, "image_channels": channels, "classes": classes, "data.source": source}
    return ImageDomain(tiny_config("images", [f"model.{key}={value}" for key, value in model.items()])).dataset(split)


def flat(root: Path) -> Path:
    return folder(root / "images", pixels(4), [f"{n}.png" for n in range(4)])


@pytest.mark.parametrize("number", [0, 3])  # 0 is held out
def test_a_png_broken_inside_is_named_before_training(tmp_path: Path, decoded: Count, number: int) -> None:
    source = flat(tmp_path)
    (source / f"{number}.png").write_bytes(flipped_png())
    for _ in range(2):  # a check that failed leaves no marker
        with pytest.raises(DataError, match=rf"1 of 4 images are damaged:\n.*{number}\.png: cannot be decoded"):
            opened(source)
    decoded()
    opened(source, "val")
    assert decoded() == 0


def test_bit_rot_in_an_archive_is_named_before_training(tmp_path: Path, decoded: Count) -> None:
    source = archive(tmp_path / "x.zip", pixels(3), None)
    content = bytearray(source.read_bytes())
    content[150] ^= 1
    source.write_bytes(content)
    with pytest.raises(DataError, match=r"img00000000\.png: its content is not what the archive's directory says"):
        opened(source)


def test_images_are_decoded_once_until_a_file_is_written_again(tmp_path: Path, decoded: Count) -> None:
    for source, file in ((flat(tmp_path), "2.png"), (archive(tmp_path / "x.zip", pixels(4), None), "")):
        opened(source)
        assert decoded() == 4
        opened(source)
        assert decoded() == 0
        os.utime(source / file, ns=(1, 1))  # as after another write of as many bytes
        opened(source)
        assert decoded() == 4
    copied = (tmp_path / "x.zip").rename(tmp_path / "y.zip")
    opened(copied)
    assert decoded() == 4
    assert len(list((tmp_path / "cache" / "images").glob("verified-*"))) == 5


def test_damage_done_after_a_check_is_found(tmp_path: Path, decoded: Count) -> None:
    source = flat(tmp_path)
    opened(source)
    (source / "3.png").write_bytes(flipped_png())
    os.utime(source / "3.png", ns=(1, 1))
    with pytest.raises(DataError, match=r"3\.png: cannot be decoded"):
        opened(source)


def test_a_cache_that_cannot_be_written_does_not_stop_the_training(
    tmp_path: Path, decoded: Count, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("no folder")
    with caplog.at_level(logging.INFO, logger="disco"):
        assert len(opened(flat(tmp_path))) == 3
    assert "decoding all 4 images before training" in caplog.text
    assert "will be decoded again next time: cannot write" in caplog.text


def test_arrays_have_nothing_to_decode(tmp_path: Path, decoded: Count) -> None:
    verify_once(open_source("digits"))
    assert not (tmp_path / "cache").exists()


def test_test_files_are_opened_before_training(tmp_path: Path) -> None:
    idx(tmp_path, pixels(3, 1)[:, 0], np.arange(3))
    assert len(opened(tmp_path, channels=1, classes=3)) == 3
    idx(tmp_path, pixels(3, 1)[:, 0], np.arange(3), stem="t10k")
    assert len(opened(tmp_path, channels=1, classes=3)) == 3
    cut(tmp_path / "t10k-images-idx3-ubyte", 100)
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte: 100 bytes"):
        opened(tmp_path, channels=1, classes=3)


@pytest.mark.parametrize("nested", [False, True])
def test_missing_cifar_files_are_named(tmp_path: Path, nested: bool) -> None:
    root, images, _ = cifar(tmp_path / "cifar-10-batches-bin")
    path = tmp_path if nested else root
    (root / "test_batch.bin").rename(tmp_path / "test")
    assert not has_test_files(path)
    assert np.array_equal(all_of(open_source(path)), images[:20])  # all that training needs
    with pytest.raises(DataError, match=r"no test_batch\.bin; unpack all of .* with --split train"):
        verify_path(str(path), quiet=True)
    (root / "data_batch_2.bin").unlink()
    (root / "data_batch_5.bin").unlink()
    for split, names in (
        ("train", r"data_batch_2\.bin, data_batch_5\.bin"),
        ("all", r"data_batch_2\.bin, data_batch_5\.bin, test_batch\.bin"),
    ):
        with pytest.raises(DataError, match=rf"cifar-10-batches-bin: no {names}; unpack all of cifar-10-binary"):
            open_source(path, split)
    (tmp_path / "test").rename(root / "test_batch.bin")
    assert has_test_files(path)
    assert np.array_equal(all_of(open_source(path, "val")), images[20:])


def test_other_files_of_a_cifar_folder_are_not_read(tmp_path: Path) -> None:
    root, images, _ = cifar(tmp_path / "c")
    for name in ("data_batch_1 (1).bin", "data_batch_6.bin"):
        (root / name).write_bytes((root / "data_batch_1.bin").read_bytes())
    assert np.array_equal(all_of(open_source(root, "all")), images)


def test_the_pickled_version_of_cifar_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(pickle.dumps({}))
    for path in (tmp_path, tmp_path / "cifar-10-batches-py"):
        with pytest.raises(DataError, match=r"holds no images .* binary version: disco data fetch cifar10"):
            open_source(path)


@pytest.mark.parametrize("stem", ["train", "t10k"])
def test_a_missing_file_of_labels_is_named(tmp_path: Path, stem: str) -> None:
    for part in ("train", "t10k"):
        idx(tmp_path, pixels(3, 1)[:, 0], np.arange(3), part, zipped=part == "t10k")
    next(tmp_path.glob(f"{stem}-labels*")).unlink()
    gone, whole = ("train", "val") if stem == "train" else ("val", "train")
    for split in (gone, "all"):
        with pytest.raises(DataError, match=rf"{stem}-labels-idx1-ubyte: does not exist, nor as \.gz"):
            verify_path(str(tmp_path), split, quiet=True)
    assert open_source(tmp_path, whole).classes == 3


def test_images_without_any_labels_are_a_source_without_classes(tmp_path: Path) -> None:
    for part in ("train", "t10k"):
        idx(tmp_path, pixels(3, 1)[:, 0], np.arange(3), part)
    for path in tmp_path.glob("*-labels-*"):
        path.unlink()
    assert open_source(tmp_path).require((1, 8, 8), 0).labels is None
    both = r"put train-labels-idx1-ubyte and t10k-labels-idx1-ubyte \(or \.gz\) beside the images"
    assert re.search(rf"no classes \(to have some, {both}\)", verify_path(str(tmp_path), quiet=True).summary())
    single = verify_path(str(tmp_path / "train-images-idx3-ubyte"), quiet=True).summary()
    assert "put train-labels-idx1-ubyte (or .gz) beside" in single
    with pytest.raises(DataError, match=rf"{both}, or set model\.classes to 0"):
        open_source(tmp_path).require((1, 8, 8), 10)


def test_a_folder_with_what_training_needs_is_enough(tmp_path: Path) -> None:
    idx(tmp_path, pixels(3, 1)[:, 0], np.arange(3))
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    assert len(opened(tmp_path, channels=1)) == 3
    idx(tmp_path, pixels(3, 1)[:, 0], np.arange(3), stem="t10k")
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte: does not exist.* or remove those to use it"):
        opened(tmp_path, channels=1)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    assert len(opened(tmp_path, channels=1)) == len(opened(tmp_path, "val", channels=1)) == 3


def test_messages_say_what_helps(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_text("no image at all")
    with pytest.raises(DataError, match=r"0\.png: cannot be decoded \(it is none of PNG, JPEG, WEBP, BMP\)") as error:
        open_source(tmp_path, "all").shape  # noqa: B018
    assert "BytesIO" not in str(error.value)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, 1, 8, 8) + bytes(64))
    with pytest.raises(DataError, match=r"put train-labels-idx1-ubyte \(or \.gz\) beside the images"):
        open_source(tmp_path).require((1, 8, 8), 10)
    np.savez(tmp_path / "x.npz", x=pixels(2))
    with pytest.raises(DataError, match="add an array 'y'"):
        open_source(tmp_path / "x.npz", "all").require((3, 8, 8), 10)
