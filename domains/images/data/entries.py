"""Image files in a folder or a zip archive, as bytes by number; hostile archives are refused before they are read."""

import hashlib
import json
import mmap
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

import numpy as np

from core.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
LABEL_FILE = "dataset.json"
MAX_FILE = 2**28  # bytes of one image file
MAX_LABEL_FILE = 2**30
DEFLATE_LIMIT = 1032  # deflate cannot shrink more than this (RFC 1951: 258 bytes in two bits)
_LOCAL_HEADER = struct.Struct("<4s22sHH")  # signature, fields that the directory repeats, lengths of name and extra


@runtime_checkable
class Entries(Protocol):
    """Files of one source. names: paths below the source with forward slashes, sorted."""

    root: Path
    names: list[str]

    def read(self, number: int) -> bytes:
        """The whole file. Raises DataError where it cannot be read or is damaged."""

    def ends(self, number: int, head: int, tail: int) -> tuple[bytes, bytes | None]:
        """First and last bytes without reading the rest; the last ones None where that is not possible."""

    def size(self, number: int) -> int: ...

    def stamp(self) -> str:
        """A name for all files as they lie here: another one once a file was written again."""

    def labels_text(self) -> bytes | None:
        """Content of ``dataset.json``; None without."""


class FolderEntries:
    """All images below a folder, at any depth. Hidden files and folders are passed over."""

    def __init__(self, root: Path) -> None:
        self.root, names = root, []

        def stop(error: OSError) -> None:
            raise DataError(f"{error.filename}: cannot be listed ({error.strerror}); check its permissions") from error

        for folder, folders, files in os.walk(root, onerror=stop):
            folders[:] = [name for name in folders if not name.startswith(".")]
            below = os.path.relpath(folder, root).replace(os.sep, "/")
            prefix = "" if below == "." else f"{below}/"
            names += [prefix + f for f in files if f.lower().endswith(SUFFIXES) and not f.startswith(".")]
        self.names = sorted(names)

    @contextmanager
    def _open(self, name: str) -> Iterator[Any]:
        try:
            with open(self.root / name, "rb") as handle:
                yield handle
        except OSError as error:
            reason = f"cannot be read ({error.strerror}); check its permissions, or remove it"
            raise DataError(f"{self.root / name}: {reason}") from error

    def read(self, number: int) -> bytes:
        with self._open(self.names[number]) as handle:
            data: bytes = handle.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise DataError(f"{self.root / self.names[number]}: larger than {MAX_FILE} bytes, no image for training")
        return data

    def ends(self, number: int, head: int, tail: int) -> tuple[bytes, bytes | None]:
        with self._open(self.names[number]) as handle:
            first = handle.read(head)
            handle.seek(max(0, os.fstat(handle.fileno()).st_size - tail))
            return first, handle.read(tail)

    def size(self, number: int) -> int:
        with self._open(self.names[number]) as handle:
            return os.fstat(handle.fileno()).st_size

    def stamp(self) -> str:
        return _stamp(self.root, self.names)

    def labels_text(self) -> bytes | None:
        if not (self.root / LABEL_FILE).exists():
            return None
        with self._open(LABEL_FILE) as handle:
            return _limited(handle.read(MAX_LABEL_FILE + 1), self.root / LABEL_FILE)


class ZipEntries:
    """Images in a zip archive, stored or deflated. The file is mapped into memory: loader processes share it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            with zipfile.ZipFile(root) as archive:
                found = archive.infolist()
        except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise DataError(f"{root}: no readable zip archive ({error}); make or copy it again") from error
        for info in found:
            check_entry(info, root)
        files = {info.filename: info for info in found if not info.is_dir()}
        if len(files) < sum(not info.is_dir() for info in found):
            raise DataError(f"{root}: two entries of the same name; make the archive again")
        self.names = sorted(name for name in files if name.lower().endswith(SUFFIXES))
        self._labels = files.get(LABEL_FILE)
        chosen = [files[name] for name in self.names]
        # Plain arrays: a million ZipInfo objects would be copied into every loader process.
        self._table = np.array([_row(info) for info in chosen], dtype=np.int64).reshape(-1, 5)
        self._map: mmap.mmap | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_map": None}

    def _bytes(self) -> mmap.mmap:
        if self._map is None:
            try:
                with self.root.open("rb") as handle:
                    self._map = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise DataError(f"{self.root}: cannot be read ({error})") from error
        return self._map

    def read(self, number: int) -> bytes:
        return self._read(self.names[number], tuple(self._table[number].tolist()), MAX_FILE)

    def _start(self, name: str, row: tuple[int, ...]) -> int:
        """Where the data of an entry begin: its local header has a length of its own."""
        data, start = self._bytes(), row[0]
        raw = data[start : start + _LOCAL_HEADER.size]
        if len(raw) < _LOCAL_HEADER.size or raw[:4] != b"PK\3\4":
            raise DataError(f"{self.root}: entry {name}: the archive is damaged; make or copy it again")
        _, _, name_length, extra_length = _LOCAL_HEADER.unpack(raw)
        begin: int = start + _LOCAL_HEADER.size + name_length + extra_length
        return begin

    def _read(self, name: str, row: tuple[int, ...], limit: int) -> bytes:
        _, packed_size, size, checksum, method = row
        start = self._start(name, row)
        data = self._bytes()[start : start + packed_size]
        if size > limit:
            raise DataError(f"{self.root}: entry {name}: {size} bytes, more than the {limit} that are accepted")
        try:
            if method == zipfile.ZIP_DEFLATED:
                data = zlib.decompressobj(-15).decompress(data, size + 1)
        except zlib.error as error:
            raise DataError(f"{self.root}: entry {name}: damaged ({error}); make or copy the archive again") from error
        if len(data) != size or zlib.crc32(data) != checksum:
            reason = "its content is not what the archive's directory says (size or checksum)"
            raise DataError(f"{self.root}: entry {name}: {reason}; make or copy the archive again")
        return data

    def ends(self, number: int, head: int, tail: int) -> tuple[bytes, bytes | None]:
        name, row = self.names[number], tuple(self._table[number].tolist())
        start, packed_size = self._start(name, row), row[1]
        data = self._bytes()
        if row[4] == zipfile.ZIP_STORED:
            stop = start + packed_size
            return data[start : min(start + head, stop)], data[max(start, stop - tail) : stop]
        try:
            return zlib.decompressobj(-15).decompress(data[start : start + min(packed_size, head + 64)], head), None
        except zlib.error as error:
            raise DataError(f"{self.root}: entry {name}: damaged ({error}); make or copy the archive again") from error

    def size(self, number: int) -> int:
        return int(self._table[number, 2])

    def checksum(self, number: int) -> int:
        """CRC-32 of the entry's content, from the archive's directory."""
        return int(self._table[number, 3])

    def stamp(self) -> str:
        return _stamp(self.root, [""])

    def labels_text(self) -> bytes | None:
        return None if self._labels is None else self._read(LABEL_FILE, _row(self._labels), MAX_LABEL_FILE)


def _stamp(root: Path, names: list[str]) -> str:
    """SHA-256 over place, sizes and times of files: a copy elsewhere counts as other files, for copying can damage."""
    digest = hashlib.sha256(os.fsencode(root.resolve()))
    for name in names:
        try:
            found = (root / name).stat()
        except OSError as error:
            raise DataError(f"{root / name}: cannot be read ({error.strerror}); check its permissions") from error
        digest.update(os.fsencode(f"\n{name} {found.st_size} {found.st_mtime_ns}"))
    return digest.hexdigest()


def _row(info: zipfile.ZipInfo) -> tuple[int, int, int, int, int]:
    return info.header_offset, info.compress_size, info.file_size, info.CRC, info.compress_type


def check_entry(info: zipfile.ZipInfo, root: Path) -> None:
    """Raise DataError for a zip entry that no honest tool writes, or that cannot be read."""
    name, reason = info.filename, ""
    if name.startswith("/") or "\\" in name or ":" in name.split("/")[0] or ".." in PurePosixPath(name).parts:
        reason = "its path leads out of the archive"
    elif stat.S_ISLNK(info.external_attr >> 16):
        reason = "it is a symbolic link"
    elif info.flag_bits & 1:
        reason = "it is encrypted"
    elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        reason = "it is neither stored nor deflated"
    elif info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
        reason = "it is stored with two sizes"
    elif info.file_size > DEFLATE_LIMIT * max(info.compress_size, 1):
        reason = f"{info.compress_size} bytes cannot hold the {info.file_size} that it claims"
    if reason:
        raise DataError(f"{root}: entry {name}: {reason}; make the archive again from files that you trust")


def _limited(data: bytes, path: Path) -> bytes:
    if len(data) > MAX_LABEL_FILE:
        raise DataError(f"{path}: larger than {MAX_LABEL_FILE} bytes")
    return data


def labels_from(text: bytes, names: list[str], root: Path) -> np.ndarray | None:
    """[N] labels in the order of ``names`` from the content of dataset.json, None where it says null.

    Format (EDM, StyleGAN3): ``{"labels": [[name, class], ...]}`` or ``{"labels": null}``. Raises DataError.
    """
    where = f"{root}: {LABEL_FILE}"
    try:
        pairs = json.loads(text)["labels"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise DataError(f"{where}: no JSON object with 'labels' ({error!r}); it must be a list or null") from error
    if pairs is None:
        return None
    if not isinstance(pairs, list):
        raise DataError(f"{where}: 'labels' must be a list of [name, class], or null")
    numbers = {name: number for number, name in enumerate(names)}
    labels = np.full(len(names), -1, dtype=np.int64)
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise DataError(f"{where}: {json.dumps(pair)[:80]} is no [name, class]")
        name, label = pair
        if name.replace("\\", "/") not in numbers:
            raise DataError(f"{where}: names {name}, and there is no such image; restore it or make the file again")
        if type(label) is not int or not 0 <= label < 2**31:
            raise DataError(f"{where}: {name} has label {json.dumps(label)[:40]}: labels are whole numbers from 0")
        labels[numbers[name.replace("\\", "/")]] = label
    if (labels < 0).any():
        missing = int((labels < 0).sum())
        first = names[int(labels.argmin())]
        raise DataError(f"{where}: {missing} images have no label, {first} for one; complete it or set labels to null")
    return labels


def labels_by_folder(names: list[str], root: Path) -> tuple[np.ndarray | None, int]:
    """[N] numbers of the first sub-folders in alphabetical order, and their count; (None, 0) for images side by side.

    Raises DataError where some images lie in sub-folders and some do not.
    """
    folders = [name.partition("/")[0] if "/" in name else "" for name in names]
    classes = sorted(set(folders))
    if classes == [""]:
        return None, 0
    if "" in classes:
        stray = names[folders.index("")]
        raise DataError(f"{root}: {stray} lies beside the class folders; move it into one, or write a {LABEL_FILE}")
    number = {name: index for index, name in enumerate(classes)}
    return np.array([number[name] for name in folders], dtype=np.int64), len(classes)
