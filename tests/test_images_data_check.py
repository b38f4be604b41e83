"""Damage that only decoding finds is found when data is opened for training, and looked for once."""

import logging
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from core.errors import DataError
from domains.images.data import ImageDataset, open_source
from domains.images.data.decode import FileImages
from domains.images.data.prepare import verify_once
from domains.images.domain import ImageDomain
from tests.support import tiny_config
from tests.test_images_data import archive, cut, flipped_png, folder, idx, pixels

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


def test_messages_say_what_helps(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_text("no image at all")
    with pytest.raises(DataError, match=r"0\.png: cannot be decoded \(it is none of PNG, JPEG, WEBP, BMP\)") as error:
        open_source(tmp_path, "all").shape  # noqa: B018
    assert "BytesIO" not in str(error.value)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, 1, 8, 8) + bytes(64))
    with pytest.raises(DataError, match="put the file of labels"):
        open_source(tmp_path).require((1, 8, 8), 10)
    np.savez(tmp_path / "x.npz", x=pixels(2))
    with pytest.raises(DataError, match="add an array 'y'"):
        open_source(tmp_path / "x.npz", "all").require((3, 8, 8), 10)
