"""What training says: rows that survive a crash, and progress that fits where it is shown."""

import importlib.util
import io
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from core.training import logs
from core.training.logs import JsonlLog, ProgressBar, read_jsonl


def rows(*steps: int) -> list[dict[str, Any]]:
    return [{"step": step, "loss": 1 / step} for step in steps]


def write(path: Path, *steps: int, resume_step: int = 0) -> None:
    log = JsonlLog(path, resume_step)
    for row in rows(*steps):
        log.write(row)
    log.close()


def progress(steps: list[int], caplog: pytest.LogCaptureFixture, total: int = 20, **options: Any) -> list[str]:
    with caplog.at_level(logging.INFO, "disco"):
        bar = ProgressBar("training", total, **options)
        for step in steps:
            bar.update(step, f"loss {step}")
        bar.close()
    return caplog.messages


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    write(tmp_path / "log.jsonl", 1, 2, 3)
    assert read_jsonl(tmp_path / "log.jsonl") == rows(1, 2, 3)


def test_every_row_is_on_disk_before_the_log_is_closed(tmp_path: Path) -> None:
    log = JsonlLog(tmp_path / "log.jsonl", 0)
    for count, row in enumerate(rows(1, 2), start=1):
        log.write(row)
        assert len(read_jsonl(tmp_path / "log.jsonl")) == count
    log.close()


@pytest.mark.parametrize(("resume_step", "kept"), [(0, []), (2, [1, 2]), (9, [1, 2, 3, 4])])
def test_rows_past_the_resumed_step_are_cut_off(tmp_path: Path, resume_step: int, kept: list[int]) -> None:
    path = tmp_path / "log.jsonl"
    write(path, 1, 2, 3, 4)
    write(path, 10, resume_step=resume_step)
    assert read_jsonl(path) == rows(*kept, 10)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["log.jsonl"]


@pytest.mark.parametrize("torn", ['{"step": 3, "lo', '{"step": 3', "{", '{"step": 3, "loss": 0.1}garbage'])
def test_a_torn_last_line_is_dropped_and_writing_goes_on_behind_it(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "log.jsonl"
    write(path, 1, 2)
    with path.open("a") as handle:
        handle.write(torn)
    assert read_jsonl(path) == rows(1, 2)
    write(path, 3, resume_step=3)
    assert read_jsonl(path) == rows(1, 2, 3)
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize("torn", [b'{"step": 3, \xff\xfe', b"\x00\x00\x00"], ids=["noise", "zeros"])
def test_a_last_line_of_other_bytes_is_dropped_too(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "log.jsonl"
    write(path, 1, 2)
    with path.open("ab") as handle:
        handle.write(torn)
    write(path, 3, resume_step=3)
    assert read_jsonl(path) == rows(1, 2, 3)


def test_an_empty_log_has_no_rows(tmp_path: Path) -> None:
    write(tmp_path / "log.jsonl")
    assert read_jsonl(tmp_path / "log.jsonl") == []


def test_training_needs_no_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    write(tmp_path / "log.jsonl", 1, 2)
    assert read_jsonl(tmp_path / "log.jsonl") == rows(1, 2)
    assert not (tmp_path / "tensorboard").exists()


def test_where_tensorboard_is_it_gets_every_number_but_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    class Board:
        def add_scalar(self, *values: Any) -> None:
            told.append(values)

        def close(self) -> None:
            told.append("closed")

    monkeypatch.setattr(
        logs, "_summary_writer", lambda path, first: Board() if (path.name, first) == ("log", 1) else None
    )
    write(tmp_path / "log.jsonl", 1, 2)
    assert told == [("loss", 1.0, 1), ("loss", 0.5, 2), "closed"]


def test_away_from_a_terminal_progress_is_a_line_every_tenth(caplog: pytest.LogCaptureFixture) -> None:
    lines = progress(list(range(1, 21)), caplog)
    assert len(lines) == 10
    assert lines[0] == "training: 2 of 20  loss 2"
    assert lines[-1] == "training: 20 of 20  loss 20"


@pytest.mark.parametrize(("total", "lines"), [(3, 3), (10, 10), (1000, 10)])
def test_there_are_never_more_lines_than_steps_or_than_ten(
    caplog: pytest.LogCaptureFixture, total: int, lines: int
) -> None:
    assert len(progress(list(range(1, total + 1)), caplog, total)) == lines


def test_a_resumed_run_tells_only_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    lines = progress(list(range(11, 21)), caplog, done=10)
    assert [line.split()[1] for line in lines] == ["12", "14", "16", "18", "20"]


def test_a_quiet_run_says_nothing(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    assert progress(list(range(1, 21)), caplog, quiet=True) == []
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_progress_is_a_bar(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert progress([10, 20], caplog) == []
    assert "training" in terminal.getvalue()
    assert "20/20" in terminal.getvalue()


def test_rows_are_plain_json_without_nan(tmp_path: Path) -> None:
    write(tmp_path / "log.jsonl", 1)
    text = (tmp_path / "log.jsonl").read_text()
    assert json.loads(text) == {"step": 1, "loss": 1.0}
    assert text.endswith("}\n")
