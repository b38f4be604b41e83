"""Image sets that are one block of bytes: CIFAR-10 binary, IDX (the MNIST family), npz. They are read whole."""

import gzip
import hashlib
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from core.errors import DataError
from domains.images.data.entries import check_entry

CIFAR_RECORD = 1 + 3 * 32 * 32
CIFAR_CLASSES = 10
_CIFAR_TRAIN, _CIFAR_TEST = [f"data_batch_{number}.bin" for number in range(1, 6)], ["test_batch.bin"]
_CIFAR_FILES = {"train": _CIFAR_TRAIN, "val": _CIFAR_TEST, "all": _CIFAR_TRAIN + _CIFAR_TEST}
_IDX_IMAGES, _IDX_LABELS = 0x00000803, 0x00000801  # unsigned bytes in three dimensions, in one
_PLAIN_KEYS = (("x", "images"), ("y", "labels"))
_DAMAGED = (OSError, EOFError, ValueError, KeyError, MemoryError, NotImplementedError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class ArrayImages:
    """Images in memory. where: for messages; pixels: [N, C, H, W]."""

    where: str
    pixels: UInt8[np.ndarray, "n c h w"]

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    def name(self, number: int) -> str:
        """For messages."""
        return f"{self.where}: image {number}"

    def read(self, number: int) -> UInt8[np.ndarray, "c h w"]:
        """One image."""
        image: np.ndarray = self.pixels[number]
        return image

    def digest(self) -> str:
        """SHA-256 over shape and pixels."""
        return hashlib.sha256(str(self.pixels.shape).encode() + np.ascontiguousarray(self.pixels).data).hexdigest()


Read = tuple[UInt8[np.ndarray, "n c h w"], Int64[np.ndarray, " n"] | None]


def cifar_folder(path: Path, split: str) -> Path | None:
    """Where files of a split of CIFAR-10 lie: ``path``, or the folder that its archive unpacks to; None without any.
    split: ``train``, ``val`` or ``all``."""
    folders = (path, path / "cifar-10-batches-bin")
    return next((here for here in folders if any((here / name).exists() for name in _CIFAR_FILES[split])), None)


def read_cifar(folder: Path, split: str) -> Read:
    """CIFAR-10 binary version: records of one label byte and 3 x 32 x 32 bytes. split: ``train`` (five files), ``val``
    (the test file) or ``all``.

    Raises DataError, naming the files, for missing or cut-off ones and labels over 9.
    """
    files = [folder / name for name in _CIFAR_FILES[split]]
    missing = [file.name for file in files if not file.exists()]
    if missing:
        remedy = "unpack all of cifar-10-binary.tar.gz there (disco data fetch cifar10 gets it)"
        if missing == _CIFAR_TEST and split == "all":
            remedy += ", or take the training images alone with --split train"
        raise DataError(f"{folder}: no {', '.join(missing)}; {remedy}")
    parts = [_bytes_of(file) for file in files]
    for file, part in zip(files, parts, strict=True):
        if not part.size or part.size % CIFAR_RECORD or part.size != parts[0].size:
            reason = f"{part.size} bytes are no whole number of records, or not as many as the other files have"
            raise DataError(f"{file}: {reason}; unpack the archive again")
    records = np.concatenate(parts).reshape(-1, CIFAR_RECORD)
    labels = records[:, 0].astype(np.int64)
    if (labels >= CIFAR_CLASSES).any():
        raise DataError(f"{folder}: record {int(labels.argmax())} has label {labels.max()}: CIFAR-10 has 0 to 9")
    return records[:, 1:].reshape(-1, 3, 32, 32), labels


def idx_images(folder: Path, split: str) -> Path | None:
    """The file of images of a split of the MNIST family, plain or .gz; None where there is none."""
    stem = {"train": "train", "val": "t10k"}[split]
    names = [f"{stem}-images{dot}idx3-ubyte{end}" for dot in "-." for end in ("", ".gz")]
    return next((folder / name for name in names if (folder / name).exists()), None)


def _idx_labels(images: Path) -> tuple[Path, Path]:
    """Where the labels of a file of images are looked for."""
    plain = images.with_name(images.name.replace("images", "labels").replace("idx3", "idx1").removesuffix(".gz"))
    return plain, Path(f"{plain}.gz")


def missing_idx_labels(path: Path) -> list[str]:
    """Names of the files of labels that are not beside an IDX file of images, or beside those of a folder."""
    files = [path] if path.is_file() else [idx_images(path, split) for split in ("train", "val")]
    looked_for = [_idx_labels(file) for file in files if file is not None]
    return [plain.name for plain, packed in looked_for if not (plain.exists() or packed.exists())]


def read_idx(images: Path, labelled: bool = False) -> Read:
    """IDX file of images (format: LeCun, the MNIST page) and the file of labels beside it; None without.

    labelled: whether there must be one. Raises DataError for a wrong magic number or length, and where the two do not
    fit each other.
    """
    pixels = _read_idx(images, _IDX_IMAGES, 3)[:, None]
    beside = next((path for path in _idx_labels(images) if path.exists()), None)
    if beside is None and labelled:
        reason = "does not exist, nor as .gz, and there are other files of labels in the folder"
        raise DataError(f"{_idx_labels(images)[0]}: {reason}; complete it, or remove those to use it without classes")
    if beside is None:
        return pixels, None
    labels = _read_idx(beside, _IDX_LABELS, 1)
    if len(labels) != len(pixels):
        raise DataError(f"{beside}: {len(labels)} labels for the {len(pixels)} images of {images.name}")
    return pixels, labels.astype(np.int64)


def _read_idx(path: Path, magic: int, dimensions: int) -> np.ndarray:
    raw = _bytes_of(path)
    start = 4 * (1 + dimensions)
    header = struct.unpack(f">{1 + dimensions}I", raw[:start].tobytes()) if len(raw) >= start else (0,)
    if header[0] != magic:
        raise DataError(f"{path}: no IDX file of this kind (magic number {header[0]:#010x}, not {magic:#010x})")
    expected = start + int(np.prod(header[1:], dtype=object))
    if len(raw) != expected or 0 in header[1:]:
        raise DataError(f"{path}: {len(raw)} bytes, and its header promises {expected}; download it again")
    return raw[start:].reshape(header[1:])


def _bytes_of(path: Path) -> UInt8[np.ndarray, " n"]:
    """A whole file, unpacked where its name ends in .gz."""
    try:
        if path.suffix != ".gz":
            return np.fromfile(path, dtype=np.uint8)
        with gzip.open(path, "rb") as handle:
            head = handle.read(4)
            dimensions = head[3] if len(head) == 4 and head[3] <= 3 else 0
            sizes = handle.read(4 * dimensions)
            # The header says how much may follow: of a file that unpacks to more, only one byte more is read.
            limit = int(np.prod(np.frombuffer(sizes, ">u4", len(sizes) // 4), dtype=object)) + 1
            if limit > 2**36:
                raise DataError(f"{path}: its header promises {limit} bytes; no image set of this family has that many")
            return np.frombuffer(head + sizes + handle.read(limit), dtype=np.uint8)
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        raise DataError(f"{path}: cannot be read ({error}); download it again, or check its permissions") from error


def npz_splits(path: Path) -> tuple[str, ...]:
    """Splits of an npz file: train and val in the packed layout, ``all`` in others. Raises DataError."""
    with _opened(path) as file:
        return ("train", "val") if "train_xz" in file.files else ("all",)


def read_npz(path: Path, split: str) -> Read:
    """NumPy archive with uint8 images ``x`` or ``images`` ([N, H, W], [N, H, W, C] or [N, C, H, W]) and labels ``y`` or
    ``labels``; or the packed layout with ``train_xz``, ``train_shape``, ``train_sha256``, ``train_labels`` and the same
    of ``test``. split: one of ``npz_splits``. Python objects in the file are never loaded. Raises DataError.
    """
    with _opened(path) as file:
        if split == "all":
            image_key, label_key = (next((k for k in pair if k in file.files), "") for pair in _PLAIN_KEYS)
            if not image_key:
                raise DataError(f"{path}: no array 'x' or 'images'; it has {', '.join(file.files) or 'none'}")
            pixels = file[image_key]
        else:
            stem = {"train": "train", "val": "test"}[split]
            pixels, label_key = _unpacked(file, stem, path), f"{stem}_labels"
        labels = file[label_key] if label_key else None
    return _planes(pixels, path), _whole_numbers(labels, len(pixels), path)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The archive; what NumPy raises on damaged ones, as a DataError."""
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                check_entry(info, path)
        with np.load(path, allow_pickle=False) as file:
            yield file
    except _DAMAGED as error:
        raise DataError(f"{path}: cannot be read as npz ({error}); make it again, with plain arrays") from error


def grey(pixels: UInt8[np.ndarray, "n 3 h w"]) -> UInt8[np.ndarray, "n 1 h w"]:
    """Luma of ITU-R BT.601, as Pillow converts to grey, up to rounding."""
    weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return np.stack([np.rint(np.tensordot(weights, image, 1)).astype(np.uint8)[None] for image in pixels])


def _unpacked(file: Any, stem: str, path: Path) -> np.ndarray:
    shape = tuple(int(size) for size in file[f"{stem}_shape"])
    expected = int(np.prod(shape, dtype=object))
    if min(shape) < 1 or expected > 2**36:
        raise DataError(f"{path}: {stem}_shape {shape} is no size of an image set")
    try:
        raw = lzma.LZMADecompressor().decompress(file[f"{stem}_xz"].tobytes(), expected + 1)
    except lzma.LZMAError as error:
        raise DataError(f"{path}: {stem}_xz is damaged ({error}); copy the file again") from error
    if len(raw) != expected or hashlib.sha256(raw).hexdigest() != str(file[f"{stem}_sha256"]):
        raise DataError(f"{path}: {stem}_xz does not have the checksum {stem}_sha256; copy the file again")
    return np.frombuffer(raw, np.uint8).reshape(shape)


def _planes(pixels: np.ndarray, path: Path) -> UInt8[np.ndarray, "n c h w"]:
    """Any usual order of axes as [N, C, H, W]."""
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or 0 in pixels.shape:
        raise DataError(f"{path}: images are {pixels.dtype} {list(pixels.shape)}: they must be uint8 [N, H, W(, C)]")
    if pixels.ndim == 3:
        return pixels[:, None]
    last, second = pixels.shape[3] in (1, 3), pixels.shape[1] in (1, 3)
    if last == second:
        raise DataError(f"{path}: images are {list(pixels.shape)}: either axis 1 or axis 3 must be 1 or 3 channels")
    return pixels.transpose(0, 3, 1, 2) if last else pixels


def _whole_numbers(labels: np.ndarray | None, count: int, path: Path) -> Int64[np.ndarray, " n"] | None:
    if labels is None:
        return None
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        reason = f"they must be {count} whole numbers"
        raise DataError(f"{path}: labels are {labels.dtype} {list(labels.shape)}: {reason}")
    if labels.min() < 0 or labels.max() >= 2**31:
        raise DataError(f"{path}: labels go from {labels.min()} to {labels.max()}: they are numbers from 0")
    return labels.astype(np.int64)
