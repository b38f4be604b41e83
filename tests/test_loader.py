"""How batches travel from the loader processes to the device."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from core.registry import get_domain
from core.training.distributed import World
from core.training.loop import Trainer, TrainingJob, loader_options
from core.training.stage import DenoiserStage
from core.types import Batch
from tests.support import tiny_config

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
BATCH = Batch(
    torch.arange(3), {"x": torch.randn(3, 2), "y": torch.randn(3, 4)}, torch.tensor([2, 0, 1]), torch.randn(3, 5)
)
REQUEST = Batch(torch.arange(3))


def tensors(batch: Batch) -> list[Tensor]:
    values = (batch.ids, *(batch.fields or {}).values(), batch.label, batch.vector)
    return [value for value in values if value is not None]


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What ``Tensor.pin_memory``, which needs CUDA, was asked for; here it copies."""
    asked: list[Tensor] = []

    def pin(self: Tensor) -> Tensor:
        asked.append(self)
        return self.clone()

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    return asked


@pytest.mark.parametrize("batch", [BATCH, REQUEST], ids=["all fields", "a request"])
def test_all_of_a_batch_is_pinned(batch: Batch, pinned: list[Tensor]) -> None:
    copy = batch.pin_memory()
    assert {id(value) for value in pinned} == {id(value) for value in tensors(batch)}
    assert len(pinned) == len(tensors(batch)) == len(tensors(copy))
    for value, new in zip(tensors(batch), tensors(copy), strict=True):
        assert new is not value
        assert torch.equal(new, value)


@pytest.mark.parametrize(("device", "begun"), [("cuda", True), ("cuda:1", True), (GPU, True), ("cpu", False)])
def test_only_copies_to_a_gpu_are_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, device: torch.device | str, begun: bool
) -> None:
    seen = []

    def to(self: Tensor, where: torch.device | str, non_blocking: bool = False) -> Tensor:
        seen.append((where, non_blocking))
        return self

    monkeypatch.setattr(Tensor, "to", to)
    BATCH.to(device)
    assert seen == [(device, begun)] * 5


def test_batches_are_pinned_for_a_gpu_only() -> None:
    assert loader_options(GPU, 3)["pin_memory"] is True
    assert loader_options(CPU, 3)["pin_memory"] is False
    assert loader_options(GPU, 3)["num_workers"] == loader_options(CPU, 3)["num_workers"] == 3


@pytest.fixture
def loaders(monkeypatch: pytest.MonkeyPatch) -> list["DataLoader[Any]"]:
    """The loaders that training makes."""
    made: list[DataLoader[Any]] = []

    def make(*arguments: Any, **options: Any) -> "DataLoader[Any]":
        made.append(DataLoader(*arguments, **options))
        return made[-1]

    monkeypatch.setattr("core.training.loop.DataLoader", make)
    return made


def trainer(folder: Path, workers: int) -> Trainer:
    config = tiny_config("toy-plain", [f"train.denoiser.workers={workers}", "train.denoiser.steps=3"])
    domain = get_domain(config.domain)(config)
    torch.manual_seed(0)
    stage, world = DenoiserStage(domain), World(0, 1, CPU)
    return Trainer(TrainingJob(stage, domain.dataset("train"), config.stage("denoiser"), folder, 0, world, quiet=True))


@pytest.mark.parametrize("device", [CPU, GPU], ids=str)
def test_training_hands_its_device_to_the_loader(
    tmp_path: Path, loaders: list["DataLoader[Any]"], monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    monkeypatch.setattr(DataLoader, "__iter__", lambda loader: iter(()))  # pinning itself needs CUDA
    made = trainer(tmp_path, workers=2)
    made.world = replace(made.world, device=device)
    assert list(made._batches()) == []
    (loader,) = loaders
    assert loader.pin_memory is (device.type == "cuda")
    assert loader.num_workers == 2


def test_batches_of_loader_processes_are_those_of_the_training_process(
    tmp_path: Path, loaders: list["DataLoader[Any]"]
) -> None:
    alone, helped = (list(trainer(tmp_path / str(workers), workers)._batches()) for workers in (0, 2))
    assert len(loaders) == 1
    assert len(alone) == len(helped) == 3
    for one, other in zip(alone, helped, strict=True):
        assert [torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True)] == [True] * 2
