"""Where images to be measured come from: a data set of this project, or files that anyone made."""

import hashlib
import io
import zipfile
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
from domains.images.data.entries import SUFFIXES, Entries, FolderEntries, ZipEntries
from domains.images.write import to_bytes


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
    def _entries(self) -> Entries:
        """The files as bytes; hidden ones are passed over, and hostile archives refused, as for training."""
        if not self.path.exists():
            raise DataError(f"{self.path}: there is no such folder or zip file")
        if not self.path.is_dir() and not zipfile.is_zipfile(self.path):
            raise DataError(f"{self.path}: neither a folder nor a readable zip file")
        entries = FolderEntries(self.path) if self.path.is_dir() else ZipEntries(self.path)
        if not entries.names:
            raise DataError(f"{self.path}: no images in it ({', '.join(SUFFIXES)})")
        return entries

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
        return len(self._entries.names)

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

    def _contents(self) -> Iterator[tuple[str, bytes]]:
        yield from ((name, self._entries.read(number)) for number, name in enumerate(self._entries.names))


ImageSource = DatasetImages | ImageFiles


def _decoded(name: str, content: bytes, where: Path) -> UInt8[Tensor, "c h w"]:
    try:
        with Image.open(io.BytesIO(content)) as image:
            array = np.array(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}, {name}: not a readable image ({error})") from error
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)
