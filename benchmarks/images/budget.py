"""What one image costs in training, from the shapes alone: nothing is computed, and no memory is taken.

    python -m benchmarks.images.budget experiments/images/imagenet64.yaml experiments/images/imagenet128.yaml

Per network and image: forward FLOPs (two per multiply-add, of convolutions, linear layers and attention), and the bytes
that its activations hold in float32 until the backward pass.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measurement import errors_told
from core.config import RunConfig
from core.config_file import load_config
from core.registry import get_domain
from core.types import Batch, Latents


def cost(call: Callable[[], object], owned: set[int]) -> tuple[int, int]:
    """FLOPs of a call on the meta device, and bytes of what its backward pass keeps, without storages ``owned``."""
    kept: dict[int, int] = {}

    def pack(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return saved

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        result = call()  # held, so that no storage is freed and its number given to another
        bytes_kept = sum(size for number, size in kept.items() if number not in owned)
        del result
    return counter.get_total_flops(), bytes_kept


def budgets(config: RunConfig) -> dict[str, tuple[int, int]]:
    """``cost`` of one image by network. Raises ConfigError."""
    domain, latents = get_domain(config.domain)(config), config.latents
    found = {}
    with torch.device("meta"):
        x = torch.empty(1, config.model.image_channels, config.model.resolution, config.model.resolution)
        label = torch.zeros(1, dtype=torch.int64) if config.model.classes else None
        batch = Batch(torch.zeros(1, dtype=torch.int64), {"x": x}, label)
        given = None
        if latents.kind != "none":
            encoder = domain.encoder().train()
            found["encoder"] = cost(lambda: encoder(batch).values, _storages(encoder))
            values = torch.empty(1, latents.count, latents.codes)
            given = Latents(values, torch.ones(1, dtype=torch.bool))
        denoiser = domain.denoiser().train()
        level = torch.ones(1)
        found["denoiser"] = cost(lambda: denoiser({"x": x}, level, given, batch)["x"], _storages(denoiser))
    return found


def _storages(network: torch.nn.Module) -> set[int]:
    return {p.untyped_storage()._cdata for p in network.parameters()}


@errors_told
def main(files: list[str]) -> int:
    print("| configuration | network | GFLOP forward | activations, MB |\n|---|---|---:|---:|")
    for file in files:
        for name, (flops, kept) in budgets(load_config(Path(file))).items():
            print(f"| {Path(file).stem} | {name} | {flops / 1e9:.4g} | {kept / 1e6:.4g} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
