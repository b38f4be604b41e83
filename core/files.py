"""Writing files so that a reader never sees half of one."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import RequestError, StorageError

LOCK = ".lock"
_CAUSES = {
    errno.ENOSPC: "the disk is full: free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up: free some space and run the same command again",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EFBIG: "the file would pass the size limit of this process: raise it (ulimit -f) and run again",
    errno.EEXIST: "a file stands where a folder is needed: choose another folder",
    errno.ENOTDIR: "a file stands where a folder is needed: choose another folder",
    errno.EISDIR: "a folder stands where a file is needed: choose another folder",
    errno.EACCES: "permission denied: choose another folder or change its permissions",
}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the errors of a full or read-only disk into a StorageError that names the file and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno not in _CAUSES:
            raise
        raise StorageError(f"cannot write {path}: {_CAUSES[error.errno]}") from error
    except RuntimeError as error:
        # torch.save reports a failed write of its C++ archive as a RuntimeError without an errno.
        if "PytorchStreamWriter" not in str(error) and "unexpected pos" not in str(error):
            raise
        raise StorageError(f"cannot write {path}: {_CAUSES[errno.ENOSPC]}") from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to disk, then rename it into place.

    Whatever happens, ``path`` holds either its old content or all of the new. Raises StorageError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            with temporary.open("rb+") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made: the system frees it when the process ends, however it does.

    Raises RequestError where another process holds it, StorageError.
    """
    try:
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / LOCK).open("w")
    except OSError as error:  # a name that is too long, a place such as /proc
        raise StorageError(f"cannot write {folder}: {error.strerror}: choose another folder") from error
    with file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RequestError(
                f"{folder}: another run is writing there: wait for it, or choose another folder"
            ) from error
        except (ImportError, OSError):  # Windows, and file systems without locks
            pass
        yield


def write_text(path: Path, text: str) -> None:
    """Atomic ``Path.write_text`` in UTF-8; what no encoding has (file names of another one) becomes a question mark."""
    write_atomically(path, lambda temporary: temporary.write_bytes(text.encode(errors="replace")))


def sha256(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
