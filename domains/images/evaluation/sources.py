"""Where images to be measured come from: a data set of this project, or files that anyone made."""

import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from core.errors import DataError
from core.interfaces import Dataset
from domains.images.write import to_bytes

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


@dataclass(frozen=True)
class DatasetImages:
    """The field ``x`` [N, C, H, W] in [-1, 1] of a data set, in bytes; ``content_hash`` names its content."""

    dataset: Dataset

    @property
    def content_hash(self) -> str:
        return self.dataset.content_hash

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self._load(range(1)).shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.dataset)

    def batches(self, size: int) -> Iterator[UInt8[Tensor, "n c h w"]]:
        """All images in order, at most ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self._load(range(start, min(start + size, len(self))))

    def _load(self, numbers: range) -> UInt8[Tensor, "n c h w"]:
        return to_bytes(self.dataset.load(numbers, numbers).clean["x"])


@dataclass(frozen=True)
class ImageFiles:
    """The images of a folder, with its subfolders, or of a zip file, in the order of their names.

    Grey where the first file is, otherwise RGB (transparency is ignored). Raises DataError where there is no image, or
    one that is damaged or differs from the first in size or in being grey.
    """

    path: Path

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Paths below the folder, or entries of the zip file."""
        if self.path.is_dir():
            found = [each.relative_to(self.path).as_posix() for each in self.path.rglob("*") if each.is_file()]
        elif self.path.is_file():
            with self._archive() as archive:
                found = archive.namelist()
        else:
            raise DataError(f"{self.path}: there is no such folder or zip file")
        names = tuple(sorted(name for name in found if name.lower().endswith(SUFFIXES)))
        if not names:
            raise DataError(f"{self.path}: no images in it ({', '.join(SUFFIXES)})")
        return names

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over names and files."""
        digest = hashlib.sha256()
        for name, content in self._contents():
            digest.update(f"{name}\0{len(content)}\0".encode(errors="replace"))
            digest.update(content)
        return digest.hexdigest()

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = _decoded(*next(self._contents()), self.path).shape
        return channels, height, width

    def __len__(self) -> int:
        return len(self.names)

    def batches(self, size: int) -> Iterator[UInt8[Tensor, "n c h w"]]:
        """All images in order, at most ``size`` at a time."""
        pending: list[Tensor] = []
        for name, content in self._contents():
            image = _decoded(name, content, self.path)
            if image.shape != self.shape:
                raise DataError(
                    f"{self.path}, {name}: (channels, height, width) are {tuple(image.shape)}, of the first image "
                    f"{self.shape}: make them all alike"
                )
            pending.append(image)
            if len(pending) == size:
                yield torch.stack(pending)
                pending = []
        if pending:
            yield torch.stack(pending)

    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{self.path}: neither a folder nor a readable zip file ({error})") from error

    def _contents(self) -> Iterator[tuple[str, bytes]]:
        if self.path.is_dir():
            yield from ((name, (self.path / name).read_bytes()) for name in self.names)
            return
        with self._archive() as archive:
            for name in self.names:
                try:
                    content = archive.read(name)
                except (zipfile.BadZipFile, zlib.error, RuntimeError, OSError) as error:
                    raise DataError(f"{self.path}, {name}: cannot be unpacked ({error})") from error
                yield name, content


ImageSource = DatasetImages | ImageFiles


def _decoded(name: str, content: bytes, where: Path) -> UInt8[Tensor, "c h w"]:
    try:
        with Image.open(io.BytesIO(content)) as image:
            array = np.array(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}, {name}: not a readable image ({error})") from error
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)
