"""The public data sets, downloaded or taken from a file at hand, and checked."""

import hashlib
import http.client
import shutil
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from core.errors import DataError, StorageError
from core.files import storage_errors, write_atomically

_CHUNK = 2**20
_TIMEOUT = 60.0  # seconds without a byte


@dataclass(frozen=True)
class Published:
    """A data set on the web. address: folder; files: name and MD5 as its authors (or torchvision) publish them."""

    address: str
    files: tuple[tuple[str, str], ...]


PUBLISHED = {
    # MD5 from the authors' page, https://www.cs.toronto.edu/~kriz/cifar.html
    "cifar10": Published(
        "https://www.cs.toronto.edu/~kriz/", (("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),)
    ),
    # The original host no longer serves the files; mirror and MD5 are torchvision's.
    "mnist": Published(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        (
            ("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            ("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
            ("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
            ("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
        ),
    ),
    # MD5 from the authors' page, https://github.com/zalandoresearch/fashion-mnist
    "fashion-mnist": Published(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        (
            ("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            ("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
            ("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
            ("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
        ),
    ),
}


def fetch(name: str, out: Path, at_hand: Path | None = None, catalogue: dict[str, Published] = PUBLISHED) -> Path:
    """Bring a data set into the folder ``out``, which ``open_source`` then takes; files that are there stay.

    at_hand: a file, or a folder with the files, to use instead of the network. Raises DataError where a file cannot be
    had or has another checksum, and StorageError.
    """
    if name not in catalogue:
        raise DataError(f"unknown data set '{name}'; known: {', '.join(catalogue)}")
    for file, md5 in catalogue[name].files:
        target = out / file
        if not (target.is_file() and _md5(target) == md5):
            write_atomically(target, _checked(_filler(catalogue[name].address + file, file, at_hand), file, md5))
        if file.endswith(".tar.gz"):
            _unpack(target, out)
    return out


def _filler(address: str, file: str, at_hand: Path | None) -> Callable[[Path], None]:
    """What writes the file into a given place."""
    if at_hand is None:
        return lambda place: _download(address, place)
    source = at_hand / file if at_hand.is_dir() else at_hand
    if not source.is_file():
        raise DataError(f"{source}: does not exist; it should be {address}")
    return lambda place: _copy(source, place)


def _copy(source: Path, place: Path) -> None:
    try:
        shutil.copyfile(source, place)
    except PermissionError as error:
        raise DataError(f"{source}: cannot be read ({error.strerror})") from error


def _download(address: str, place: Path) -> None:
    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT) as answer, place.open("wb") as handle:
            shutil.copyfileobj(answer, handle, _CHUNK)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise DataError(f"{address}: cannot be downloaded ({error}); get it elsewhere and give --from FILE") from error


def _checked(fill: Callable[[Path], None], file: str, md5: str) -> Callable[[Path], None]:
    def write(place: Path) -> None:
        fill(place)
        found = _md5(place)
        if found != md5:
            raise DataError(f"{file}: has MD5 {found} instead of {md5}: it is damaged or another file; get it again")

    return write


def _md5(path: Path) -> str:
    with path.open("rb") as handle:
        # The checksum that was published; it guards against damage, not against forgery.
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _unpack(archive: Path, out: Path) -> None:
    try:
        with storage_errors(out), tarfile.open(archive) as file:
            file.extractall(out, filter="data")
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{archive}: cannot be unpacked ({error})") from error
    except OSError as error:
        raise StorageError(f"cannot unpack {archive} into {out}: {error}") from error
