"""Several processes train what one would."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from core.config_file import load_config
from core.training.distributed import World, resolve_device
from core.training.logs import read_jsonl
from core.training.run import train
from tests.support import ROOT, disco, write_config

pytestmark = pytest.mark.distributed
CPU = torch.device("cpu")
LENGTH, LONGER = 10, 20


def curve(folder: Path, stage: str) -> list[float]:
    return [row["loss"] for row in read_jsonl(folder / f"log-{stage}.jsonl")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("config")
    return write_config(folder / "run.yaml", "toy", [f"train.denoiser.steps={LENGTH}", "train.denoiser.lr=1e-2"])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, config: Path) -> Path:
    """Folder of a run of one process, twice as long."""
    folder = tmp_path_factory.mktemp("alone")
    train(load_config(config, [f"train.denoiser.steps={LONGER}"]), folder, device="cpu", quiet=True)
    return folder


def two_processes(*arguments: str | int | Path, fails: bool = False) -> str:
    """Run the command under torchrun; what it said on stderr."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port()),
        "-m", "core.cli", *map(str, arguments), "--device", "cpu",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, config: Path) -> Path:
    """Folder of a run of two processes."""
    folder = tmp_path_factory.mktemp("together")
    two_processes("train", config, "-o", folder, "-q")
    return folder


def test_two_processes_have_the_loss_curve_of_one(together: Path, alone: Path) -> None:
    losses = curve(together, "denoiser")
    assert len(losses) == LENGTH
    assert losses == pytest.approx(curve(alone, "denoiser")[:LENGTH], rel=1e-5)


def test_every_step_is_logged_once(together: Path) -> None:
    for stage, steps in (("denoiser", LENGTH), ("prior", 12)):
        rows = read_jsonl(together / f"log-{stage}.jsonl")
        assert [row["step"] for row in rows] == list(range(1, steps + 1))
        assert [row["samples"] for row in rows] == [16 * row["step"] for row in rows]


def test_one_process_goes_on_where_two_stopped(together: Path, alone: Path, config: Path, tmp_path: Path) -> None:
    shutil.copytree(together, tmp_path / "run")
    longer = load_config(config, [f"train.denoiser.steps={LONGER}"])
    train(longer, tmp_path / "run", "denoiser", device="cpu", quiet=True)
    losses = curve(tmp_path / "run", "denoiser")
    assert losses[:LENGTH] == curve(together, "denoiser")
    assert losses == pytest.approx(curve(alone, "denoiser"), rel=1e-4)


@pytest.mark.parametrize(("total", "size"), [(16, 1), (16, 4), (15, 5)])
def test_the_shares_of_all_processes_are_the_whole(total: int, size: int) -> None:
    shares = [World(rank, size, CPU).share(total) for rank in range(size)]
    assert [place for share in shares for place in share] == list(range(total))


def test_only_the_first_process_is_the_main_one() -> None:
    assert [World(rank, 3, CPU).is_main for rank in range(3)] == [True, False, False]


def test_without_a_choice_the_device_is_one_that_is_there() -> None:
    assert resolve_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == CPU


@pytest.mark.parametrize("count", [7, 1])
def test_two_processes_share_the_samples_of_one(trained: Callable[[str], Path], tmp_path: Path, count: int) -> None:
    folders = tmp_path / "two", tmp_path / "one"
    options = ("sample", trained("images"), "-n", count, "--batch-size", 2, "--steps", 2)
    said = two_processes(*options, "-o", folders[0])
    assert said.count(f"{count} samples, 3 network evaluations each") == 1
    assert disco(*map(str, options), "-o", folders[1]).returncode == 0
    two, one = ({p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in folders)
    assert two.keys() == one.keys()
    assert two[Path("samples.json")] == one[Path("samples.json")]
    assert all(two[path] == content for path, content in one.items() if path.suffix == ".png")


def test_a_refusal_is_everyone_s(trained: Callable[[str], Path], tmp_path: Path) -> None:
    disco("sample", str(trained("images")), "-n", "2", "--steps", "2", "-o", str(tmp_path / "samples"))
    options = ("-n", 3, "--steps", 2, "-o", tmp_path / "samples")
    said = two_processes("sample", trained("images"), *options, fails=True)
    assert "(different: count)" in said
    assert "another process refused" in said
    said = two_processes("sample", trained("toy"), "-o", tmp_path / "toy", fails=True)
    assert "'toy' writes its samples together: make them in one process" in said
    assert not (tmp_path / "toy").exists()
