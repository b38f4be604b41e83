"""Runs that were killed, stopped or damaged go on as if nothing had happened, bit for bit."""

import os
import pickle
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from core.checkpoint import read_manifest
from core.config_file import load_config
from core.errors import CheckpointError
from core.training.logs import read_jsonl
from core.training.run import train
from core.training.state import load_newest, save_state
from tests.support import ROOT, disco, tiny_config, write_config

STEPS, EVERY = 300, 20
LONG = [f"train.denoiser.steps={STEPS}", f"train.denoiser.checkpoint_every={EVERY}", "train.denoiser.lr=1e-2"]
WITH_LOADER = "train.denoiser.workers=1"
CPU = torch.device("cpu")


def curve(folder: Path, stage: str = "denoiser") -> list[tuple[int, float, float]]:
    return [(row["step"], row["loss"], row["grad_norm"]) for row in read_jsonl(folder / f"log-{stage}.jsonl")]


def same(run: Path, other: Path) -> None:
    """Both runs have the same loss curves and weights, bit for bit."""
    for stage in ("denoiser", "prior"):
        assert curve(run, stage) == curve(other, stage)
    assert read_manifest(run / "model").weights == read_manifest(other / "model").weights


def wait_for_state(folder: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not any((folder / "state" / "denoiser").glob("state-*.pt")):
        assert process.poll() is None, "the run ended before it saved a state"
        assert time.monotonic() < deadline, "no state in two minutes"
        time.sleep(0.002)


def stop(config: Path, folder: Path, number: signal.Signals, *overrides: str) -> tuple[int, str]:
    """Start a run; when it has saved a state, signal its whole process group, as Ctrl-C and job schedulers do.

    Returns exit code and stderr.
    """
    command = [sys.executable, "-m", "core.cli", "train", str(config), "-o", str(folder), "-q", *overrides]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True)
    try:
        wait_for_state(folder, process)
        os.killpg(process.pid, number)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, stderr


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("config") / "run.yaml", "toy", LONG)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, config: Path) -> Path:
    """Folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    train(load_config(config), folder, quiet=True)
    return folder


@pytest.fixture(scope="module")
def terminated(tmp_path_factory: pytest.TempPathFactory, config: Path) -> tuple[Path, int, str, int]:
    """Folder, exit code, stderr and last saved step of a run that got SIGTERM, and its loader process with it."""
    folder = tmp_path_factory.mktemp("terminated") / "a run"
    code, stderr = stop(config, folder, signal.SIGTERM, WITH_LOADER)
    state = load_newest(folder / "state" / "denoiser")
    return folder, code, stderr, 0 if state is None else state["step"]


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path, config: Path, whole: Path) -> None:
    code, _ = stop(config, tmp_path / "run", signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert not (tmp_path / "run" / "model").exists(), "the kill came too late to test anything"
    assert disco("train", config, "-o", tmp_path / "run", "-q").returncode == 0
    same(tmp_path / "run", whole)


def test_sigterm_saves_the_last_step_and_tells_how_to_go_on(terminated: tuple[Path, int, str, int]) -> None:
    folder, code, stderr, saved = terminated
    assert code == 128 + signal.SIGTERM, stderr
    assert "stopped by SIGTERM" in stderr
    assert "Traceback" not in stderr
    assert saved == curve(folder)[-1][0]
    assert EVERY <= saved < STEPS


def test_the_command_to_go_on_can_be_pasted(terminated: tuple[Path, int, str, int], config: Path) -> None:
    folder, _, stderr, _ = terminated
    command = shlex.split(stderr.strip().splitlines()[-1])
    assert command == ["disco", "train", str(config), "-o", str(folder), "-q", WITH_LOADER]


def test_a_stopped_run_goes_on_as_if_nothing_had_happened(
    terminated: tuple[Path, int, str, int], config: Path, whole: Path
) -> None:
    folder = terminated[0]
    train(load_config(config), folder, quiet=True)
    same(folder, whole)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_weight(path: Path) -> None:
    content = bytearray(path.read_bytes())
    state = torch.load(path, weights_only=True)
    weight = state["stage"]["denoiser.body.0.0.weight"].numpy().tobytes()
    content[content.index(weight) + 3] ^= 0x40
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": truncate,
    "garbage": lambda path: path.write_bytes(b"garbage" * 1000),
    "text": lambda path: path.write_text("{}"),
    "a flipped bit": flip_a_weight,
}


def go_on(folder: Path) -> None:
    train(tiny_config("toy", ["train.denoiser.steps=16"]), folder, "denoiser", quiet=True)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_state_falls_back_to_the_one_before(
    trained: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], Any]
) -> None:
    for name in ("damaged", "sound"):
        shutil.copytree(trained("toy"), tmp_path / name)
    newest = tmp_path / "damaged" / "state" / "denoiser" / "state-00000012.pt"
    damage(newest)
    for name in ("damaged", "sound"):
        go_on(tmp_path / name)
    assert f"{newest}: damaged" in caplog.text
    assert curve(tmp_path / "damaged") == curve(tmp_path / "sound")
    damaged, sound = (read_manifest(tmp_path / name / "model").weights for name in ("damaged", "sound"))
    assert damaged == sound


def test_when_every_state_is_damaged_the_folder_is_named(trained: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(trained("toy"), tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "state" / "denoiser"
    for path in folder.iterdir():
        truncate(path)
    with pytest.raises(CheckpointError, match="every training state is damaged; delete the folder") as caught:
        go_on(tmp_path)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("content", [{"schema": 99, "step": 3}, {"step": 3}, [1, 2]], ids=str)
def test_a_state_of_another_version_is_named(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "state-00000003.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="written by another version") as caught:
        load_newest(tmp_path)
    assert str(path) in str(caught.value)


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    weights = torch.randn(50, dtype=torch.float64)
    save_state(tmp_path, 7, {"stage": {"w": weights}}, keep=2)
    state = load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 7
    assert torch.equal(state["stage"]["w"], weights)
    assert load_newest(tmp_path / "nothing") is None


def test_half_a_state_that_a_kill_left_behind_is_ignored(tmp_path: Path) -> None:
    save_state(tmp_path, 7, {}, keep=2)
    (tmp_path / ".state-00000008.pt.123.tmp").write_bytes(b"half")
    state = load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 7


def test_code_in_a_state_is_not_executed(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return open, (str(tmp_path / "executed"), "w")

    torch.save({"schema": 1, "step": 1, "x": Bomb()}, tmp_path / "state-00000001.pt")
    (tmp_path / "state-00000002.pt").write_bytes(pickle.dumps(Bomb(), protocol=2))
    with pytest.raises(CheckpointError):
        load_newest(tmp_path)
    assert not (tmp_path / "executed").exists()


def started(folder: Path, base: Path, steps: int, *overrides: str, stage: str = "denoiser") -> Path:
    """Train a run whose ``stage`` starts from another model; its model folder."""
    own = [f"train.{stage}.initial={base}", f"train.{stage}.steps={steps}", f"train.{stage}.checkpoint_every=2"]
    return train(tiny_config("toy", [*own, *overrides]), folder, quiet=True)


def test_a_run_goes_on_without_the_model_it_started_from(trained: Callable[[str], Path], tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(trained("toy"), base)
    whole = started(tmp_path / "whole", base, steps=8)
    started(tmp_path / "run", base, steps=4)
    shutil.rmtree(base)
    assert read_manifest(started(tmp_path / "run", base, steps=8)).weights == read_manifest(whole).weights
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")
    with pytest.raises(CheckpointError, match="no such folder"):
        started(tmp_path / "new", base, steps=8)


def test_a_stage_that_starts_over_starts_from_the_other_model_again(
    trained: Callable[[str], Path], tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(trained("toy"), base)
    longer = "train.denoiser.steps=16"
    fresh = started(tmp_path / "fresh", base, 4, longer, stage="prior")
    started(tmp_path / "run", base, 4, stage="prior")
    again = started(tmp_path / "run", base, 4, longer, stage="prior")  # the prior's encoder is another one now
    assert read_manifest(again).weights == read_manifest(fresh).weights
    assert curve(tmp_path / "run", "prior") == curve(tmp_path / "fresh", "prior")
