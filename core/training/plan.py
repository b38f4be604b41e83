"""What a training run would do, before it does it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from core.config import RunConfig
from core.config_file import dump_config
from core.registry import get_domain
from core.training.loop import samples_per_call
from core.training.stage import stage_names

BYTES = 20  # per parameter in training, float32: weights, gradients, both moments of Adam, averaged weights


def plan(config: RunConfig, folder: Path, processes: int = 1) -> Iterator[str]:
    """Lines: the resolved configuration, the stages, the size of every network, and the training data.

    Raises ConfigError for a batch that the processes cannot share, DataError at the last line where data are missing.
    """
    domain = get_domain(config.domain)(config)
    yield dump_config(config).rstrip()
    yield f"# folder: {folder}"
    for name in stage_names(domain):
        stage = config.stage(name)
        each = samples_per_call(name, stage, processes)
        split = f"{stage.accumulate} micro-batches of {each} on each of {processes} process(es)"
        yield f"# stage {name}: {stage.steps:,} steps of {stage.batch} samples, {split}"
    for name, build in domain.parts().items():
        count = parameters(build)
        yield f"# {name}: {count:,} parameters, {BYTES * 1e-9 * count:.2g} GB in training beside activations"
    yield f"# training samples: {len(domain.dataset('train'))}"


def parameters(build: Callable[[], nn.Module]) -> int:
    """How many a network has; no memory is taken for them where its builder allows that."""
    try:
        with torch.device("meta"):
            network = build()
    except (RuntimeError, NotImplementedError):  # it looks at values
        network = build()
    return sum(p.numel() for p in network.parameters())
