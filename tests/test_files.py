"""Files are written whole or not at all; a disk that cannot take them is named."""

import errno
import hashlib
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from core.errors import StorageError
from core.files import sha256, storage_errors, write_atomically, write_text
from core.training.logs import JsonlLog, read_jsonl
from core.training.state import load_newest, save_state

CPU = torch.device("cpu")
BIG = 200_000


@contextmanager
def full_disk(folder: Path) -> Iterator[int]:
    """Make ``folder`` a disk of 64 KiB, or, without the right to mount one, limit files to that size."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        try:
            yield errno.ENOSPC
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        return
    with small_files():
        yield errno.EFBIG


@contextmanager
def small_files() -> Iterator[None]:
    """No file of this process can grow past 64 KiB (EFBIG)."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def refuse(number: int) -> Callable[..., None]:
    def raise_error(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return raise_error


def test_text_is_written_in_utf8_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "text.txt"
    write_text(path, "sigma \N{GREEK SMALL LETTER SIGMA}\n")
    assert path.read_bytes() == b"sigma \xcf\x83\n"
    assert list(path.parent.iterdir()) == [path]


def test_new_content_replaces_old(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "a long first text")
    write_text(path, "short")
    assert path.read_text() == "short"


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")], ids=repr)
def test_a_failing_write_keeps_the_old_content_and_leaves_nothing_behind(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def half(temporary: Path) -> None:
        temporary.write_text("half of the ne")
        raise error

    with pytest.raises((type(error), StorageError)):
        write_atomically(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_readers_never_see_the_file_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    seen = []

    def write(temporary: Path) -> None:
        temporary.write_text("new")
        seen.append(path.read_text())
        assert temporary.parent == path.parent, "a rename must not cross file systems"

    write_atomically(path, write)
    assert seen == ["old"]
    assert path.read_text() == "new"


def test_a_full_disk_is_named_and_keeps_the_old_content(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with full_disk(disk):
        path = disk / "file.bin"
        write_text(path, "old")
        with pytest.raises(StorageError) as caught:
            write_atomically(path, lambda temporary: temporary.write_bytes(os.urandom(BIG)))
        assert path.read_text() == "old"
        assert [p.name for p in disk.iterdir()] == ["file.bin"]
    assert f"cannot write {path}" in str(caught.value)
    assert "free some space" in str(caught.value) or "limit" in str(caught.value)


def test_a_file_size_limit_is_a_storage_error_too(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    write_text(path, "old")
    with small_files(), pytest.raises(StorageError, match="cannot write"):
        write_atomically(path, lambda temporary: temporary.write_bytes(os.urandom(BIG)))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_training_state_on_a_full_disk_keeps_the_one_before(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with full_disk(disk):
        save_state(disk, 1, {"weights": torch.arange(10.0)}, keep=2)
        with pytest.raises(StorageError, match=r"cannot write .*state-00000002\.pt: .*"):
            save_state(disk, 2, {"weights": torch.randn(BIG)}, keep=2)
        state = load_newest(disk)
        assert [p.name for p in disk.iterdir()] == ["state-00000001.pt"]
    assert state is not None
    assert torch.equal(state["weights"], torch.arange(10.0))


def test_a_log_on_a_full_disk_can_be_closed_and_keeps_its_whole_rows(tmp_path: Path) -> None:
    def fill(log: JsonlLog) -> None:
        for step in range(1, 10_000):
            log.write({"step": step, "note": "x" * 40})

    disk = tmp_path / "disk"
    with full_disk(disk):
        log = JsonlLog(disk / "log.jsonl", 0)
        with pytest.raises(StorageError), storage_errors(log.path):
            fill(log)
        log.close()
        steps = [row["step"] for row in read_jsonl(log.path)]
    assert len(steps) > 100
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "the disk is full: free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only: choose another folder"),
        (errno.EACCES, "permission denied: choose another folder"),
    ],
    ids=["full", "quota", "read-only", "permission"],
)
def test_a_disk_that_refuses_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    monkeypatch.setattr(os, "replace", refuse(number))
    with pytest.raises(StorageError, match=remedy) as caught:
        write_text(path, "new")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_device_without_space_is_named() -> None:
    path = Path("/dev/full")
    with pytest.raises(StorageError, match="cannot write /dev/full: the disk is full"), storage_errors(path):
        path.write_text("x" * BIG)


def test_errors_that_are_not_about_storage_pass_through(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output"), storage_errors(tmp_path):
        refuse(errno.EIO)()
    with pytest.raises(RuntimeError, match="another"), storage_errors(tmp_path):
        raise RuntimeError("another")


@pytest.mark.parametrize("name", ["file/below.txt", "folder"])
def test_a_path_that_cannot_be_a_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("a file where a folder is needed")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="cannot write") as caught:
        write_text(tmp_path / name, "text")
    assert str(tmp_path / name) in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("content", [b"", b"abc", bytes(range(256)) * 5000])
def test_checksums_are_those_of_hashlib(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
