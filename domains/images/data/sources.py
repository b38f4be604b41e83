"""One function opens any source of images: a folder, a zip archive, CIFAR-10, IDX, npz, or the digits by name."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from core.errors import DataError
from domains.images.data.arrays import (
    ArrayImages,
    Read,
    cifar_folder,
    grey,
    idx_images,
    missing_idx_labels,
    npz_splits,
    read_cifar,
    read_idx,
    read_npz,
)
from domains.images.data.decode import FileImages
from domains.images.data.digits import digit_bytes
from domains.images.data.entries import Entries, FolderEntries, ZipEntries, labels_by_folder, labels_from

SPLITS = ("train", "val", "all")
VAL_SHARE = 0.1


Images = FileImages | ArrayImages  # what is decoded when asked for, and what is in memory


@dataclass(frozen=True)
class ImageSource:
    """Images with their classes. stored: everything that the source holds; numbers: [N] which of these belong here (a
    split); labels: [N] class numbers, None without; classes: how many there are, 0 without labels."""

    path: str
    stored: Images
    numbers: Int64[np.ndarray, " n"]
    labels: Int64[np.ndarray, " n"] | None
    classes: int

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width that all images have. Raises DataError where they differ."""
        return self.stored.shape

    def name(self, index: int) -> str:
        """Of one image, for messages."""
        return self.stored.name(int(self.numbers[index]))

    def read(self, indices: Sequence[int] | np.ndarray) -> UInt8[np.ndarray, "b c h w"]:
        """Images at ``indices``. Raises DataError for one that is damaged or not of the common size."""
        images = [self.stored.read(int(self.numbers[index])) for index in indices]
        shape = self.shape
        for index, image in zip(indices, images, strict=True):
            if image.shape != shape:
                raise DataError(f"{self.name(int(index))}: {image.shape}, and the first image is {shape}")
        return np.stack(images) if images else np.empty((0, *shape), dtype=np.uint8)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over images, choice and labels."""
        digest = hashlib.sha256(self.stored.digest().encode())
        digest.update(self.numbers.tobytes() + (b"" if self.labels is None else self.labels.tobytes()))
        return digest.hexdigest()

    def subset(self, chosen: np.ndarray) -> "ImageSource":
        """The images at ``chosen`` (numbers or a mask)."""
        labels = None if self.labels is None else self.labels[chosen]
        return replace(self, numbers=self.numbers[chosen], labels=labels)

    def require(self, shape: tuple[int, int, int], classes: int) -> "ImageSource":
        """Itself, checked against what a model needs: channels, height and width, and its number of classes (0: none).

        Raises DataError.
        """
        if self.shape != shape:
            raise DataError(
                f"{self.path}: images are {_words(self.shape)} and the model is made for {_words(shape)}; set "
                "model.resolution and model.image_channels, or bring them to its size: disco data prepare --resolution"
            )
        if classes and self.labels is None:
            reason = f"has no labels, and the model has {classes} classes"
            raise DataError(f"{self.path}: {reason}; {self.remedy}, or set model.classes to 0")
        if classes and self.labels is not None and self.labels.max(initial=0) >= classes:
            worst = int(self.labels.argmax())
            reason = f"label {self.labels[worst]}, and the model has classes 0 to {classes - 1}"
            raise DataError(f"{self.name(worst)}: {reason}")
        return self

    @property
    def remedy(self) -> str:
        """What to do where this kind of source has no labels, for messages."""
        if isinstance(self.stored, FileImages):
            return "name the class of every image in dataset.json"
        if self.path.endswith(".npz"):
            return "add an array 'y' of them"
        return f"put {' and '.join(missing_idx_labels(Path(self.path)))} (or .gz) beside the images"


def _words(shape: tuple[int, int, int]) -> str:
    return f"{shape[2]} x {shape[1]} pixels with {shape[0]} channel(s)"


def held_out(count: int, share: float) -> np.ndarray:
    """[count] mask of the validation samples: evenly spread, the first one included, the same on every call."""
    parts = np.arange(count + 1, dtype=np.int64) * round(share * 1_000_000)
    ends: np.ndarray = -(-parts // 1_000_000)
    return ends[1:] > ends[:-1]


def open_source(
    source: str | Path, split: str = "train", channels: int | None = None, val_share: float = VAL_SHARE
) -> ImageSource:
    """Open ``source`` and choose a split of it.

    source: ``digits``; a folder of PNG, JPEG, WebP or BMP files (class: number of the first sub-folder, or what
    dataset.json says); a zip archive of the same (EDM's format); a folder with CIFAR-10's binary files or with the IDX
    files of the MNIST family (or one such file of images); an npz file. split: ``train``, ``val`` or ``all``: the test
    files where there are any, else every sample number that ``held_out`` names. channels: 1 or 3 to convert image files
    to grey or RGB. Nothing is decoded yet. Raises DataError.
    """
    if split not in SPLITS:
        raise DataError(f"unknown split '{split}'; known: {', '.join(SPLITS)}")
    if str(source) == "digits":
        pixels, labels = digit_bytes()
        return _chosen(_in_memory("digits", pixels, labels, channels), split, val_share)
    path = Path(source)
    if not path.exists():
        raise DataError(f"{path}: does not exist; give a folder, .zip or .npz file of images, or 'digits'")
    readers = _array_readers(path)
    if readers.keys() == {"all"}:
        return _chosen(_in_memory(str(path), *readers["all"](), channels), split, val_share)
    if readers:
        return _in_memory(str(path), *_joined(path, readers, split), channels)
    if path.is_dir():
        return _chosen(in_files(FolderEntries(path), channels), split, val_share)
    if path.suffix == ".zip":
        return _chosen(in_files(ZipEntries(path), channels), split, val_share)
    raise DataError(f"{path}: of no known kind; give a folder, .zip, .npz or idx3-ubyte file, or 'digits'")


def _array_readers(path: Path) -> dict[str, Callable[[], Read]]:
    """Readers of what is read whole, by split (``all`` alone: the file has none); empty for folders and archives of
    image files."""
    if path.suffix == ".npz":
        return {split: partial(read_npz, path, split) for split in npz_splits(path)}
    if path.is_file():
        return {"all": partial(read_idx, path)} if "idx3-ubyte" in path.name else {}
    folder = cifar_folder(path, "all")
    if folder is not None:
        return {split: partial(read_cifar, folder, split) for split in SPLITS}
    files = {split: idx_images(path, split) for split in ("train", "val")}
    labelled = any(path.glob("*labels*idx1-ubyte*"))
    return {split: partial(read_idx, file, labelled) for split, file in files.items() if file is not None}


def array_splits(path: Path) -> set[str]:
    """Splits that a file or folder read whole (CIFAR-10, IDX, npz) has, ``all`` alone where there are none; empty for
    folders and archives of image files."""
    return set(_array_readers(path))


def has_test_files(path: Path) -> bool:
    """Whether validation images lie in files or arrays of their own."""
    if path.suffix == ".npz":
        return "val" in npz_splits(path)
    return idx_images(path, "val") is not None or cifar_folder(path, "val") is not None


def _joined(path: Path, readers: dict[str, Callable[[], Read]], split: str) -> Read:
    """One split, or all there are after one another."""
    if split in readers:
        return readers[split]()
    if split != "all":
        raise DataError(f"{path}: has no files for the split '{split}'; complete the folder")
    parts = [read() for read in readers.values()]
    labels = [label for _, label in parts if label is not None]
    pixels = np.concatenate([image for image, _ in parts]) if len(parts) > 1 else parts[0][0]
    return pixels, np.concatenate(labels) if len(labels) == len(parts) else None


def _in_memory(path: str, pixels: np.ndarray, labels: np.ndarray | None, channels: int | None) -> ImageSource:
    if channels not in (None, pixels.shape[1]):
        pixels = pixels.repeat(3, axis=1) if channels == 3 else grey(pixels)
    classes = 0 if labels is None else int(labels.max()) + 1
    return ImageSource(path, ArrayImages(path, pixels), np.arange(len(pixels)), labels, classes)


def in_files(entries: Entries, channels: int | None) -> ImageSource:
    """All images of a folder or archive, with their labels. Raises DataError."""
    if not entries.names:
        pickled = any(entries.root.rglob("data_batch_[1-5]"))
        hint = "; CIFAR-10 is read in its binary version: disco data fetch cifar10" if pickled else ""
        raise DataError(f"{entries.root}: holds no images (.png, .jpg, .webp, .bmp){hint}")
    text = entries.labels_text()
    if text is None:
        labels, classes = labels_by_folder(entries.names, entries.root)
    else:
        labels = labels_from(text, entries.names, entries.root)
        classes = 0 if labels is None else int(labels.max()) + 1
    return ImageSource(str(entries.root), FileImages(entries, channels), np.arange(len(entries.names)), labels, classes)


def _chosen(source: ImageSource, split: str, val_share: float) -> ImageSource:
    if split == "all":
        return source
    mask = held_out(len(source), val_share)
    chosen = source.subset(mask if split == "val" else ~mask)
    if not len(chosen):
        raise DataError(f"{source.path}: no image is left for the split '{split}' (a share of {val_share} is held out)")
    return chosen
