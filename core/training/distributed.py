"""Data-parallel processes under torchrun: NCCL on GPUs, gloo on CPUs. Without torchrun: one process."""

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from core.errors import RequestError


@dataclass(frozen=True)
class World:
    """This process among all that train or sample together."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, total: int) -> range:
        """This process's part of ``total`` places (equal parts)."""
        each = total // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def wrap(self, module: nn.Module) -> nn.Module:
        """Average gradients over the processes in every backward pass."""
        if self.size == 1:
            return module
        return DistributedDataParallel(module, device_ids=[self.device] if self.device.type == "cuda" else None)

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the processes."""
        if self.size > 1:
            value = value.clone()
            distributed.all_reduce(value)
            value /= self.size
        return value

    def any(self, flag: bool) -> bool:
        """True where any process says so (a signal may reach one of them first)."""
        if self.size == 1:
            return flag
        return bool(self.mean(torch.tensor(float(flag), device=self.device)) > 0)

    def barrier(self) -> None:
        if self.size > 1:
            distributed.barrier()


def resolve_device(name: str = "auto") -> torch.device:
    """``auto`` takes CUDA where there is one. Raises RequestError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RequestError(f"unknown device '{name}': use auto, cpu or cuda:0") from error
    if device.type not in ("cpu", "cuda"):
        raise RequestError(f"device '{name}' is not supported: use auto, cpu or cuda:0")
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= seen:
        raise RequestError(f"device '{name}' is not there, this PyTorch sees {seen} CUDA devices: use --device cpu")
    return device


def start_world(device: str = "auto", patience: timedelta | None = None) -> World:
    """Join the process group that torchrun set up in the environment, or be alone. patience: how long one process waits
    for the others before it gives up, None for torch's default (minutes)."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World(0, 1, resolve_device(device))
    where = resolve_device(device)
    if where.type == "cuda":
        where = resolve_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(where)
    distributed.init_process_group("nccl" if where.type == "cuda" else "gloo", timeout=patience)
    return World(distributed.get_rank(), size, where)


def stop_world(world: World) -> None:
    """Leave the process group."""
    if world.size > 1:
        distributed.destroy_process_group()
