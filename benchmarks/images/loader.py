"""How many images per second the loader delivers to training, and how many GPUs that keeps busy.

    python -m benchmarks.images.loader [--source PATH] [--resolution 64] [--workers 0,1,2] [--batch 64] [--count 8192]
        [--augment 0.12] [--gpu-rate 71]

Batches come from the trainer's own loop. Without --source: the same made-up images as an archive of PNGs, made by
`disco data prepare`, and as an npz. CPU seconds are those of all processes; each computes with one thread.
"""

import argparse
import resource
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.measurement import Clock, Measurement, errors_told
from core.config import StageConfig
from core.interfaces import Dataset, Stage
from core.training.distributed import World, resolve_device
from core.training.loop import Trainer, TrainingJob
from domains.images.data import ImageDataset, open_source
from domains.images.data.prepare import Preparation, prepare

IMAGES = 2000  # that are made up


class Untrained(Stage):
    """The least that a trainer takes: its batches alone are of interest."""

    name = "loader"

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, batch: object, streams: object) -> dict[str, Tensor]:
        return {"loss": self.weight}

    def parts(self) -> dict[str, nn.Module]:
        return {}


def numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", help="images to load instead of made-up ones, as in model.data.source")
    parser.add_argument("--resolution", type=int, default=64, help="of made-up images")
    parser.add_argument("--workers", type=numbers, default="0,1,2", help="loader processes, several after commas")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--count", type=int, default=8192, help="images of every measurement, in whole batches")
    parser.add_argument("--augment", type=float, default=0.12, help="probability, beside none")
    parser.add_argument("--gpu-rate", type=float, default=71, help="images/s of a GPU (EDM's ImageNet-64 on an A100)")
    found = parser.parse_args(arguments)
    sizes = (found.resolution, found.batch, found.count, found.gpu_rate)
    if min(sizes) < 1 or min(found.workers) < 0 or not 0 <= found.augment <= 1:
        parser.error("workers: at least 0; augment: from 0 to 1; all other numbers: at least 1")
    return found


def pictures(count: int, size: int) -> UInt8[np.ndarray, "n 3 h w"]:
    """Made-up images that take as many bytes as photographs (6.7 kB as PNG of 64 pixels, the mean over pieces of
    scikit-learn's two): noise of every scale, the coarser the stronger."""
    generator, images = torch.Generator().manual_seed(0), torch.zeros(count, 3, size, size)
    for scale in (2**n for n in range(size.bit_length())):
        noise = torch.randn(count, 3, size // scale, size // scale, generator=generator)
        images += scale**0.7 * functional.interpolate(noise, (size, size), mode="bilinear")
    return (128 + 50 * images / images.std(dim=(1, 2, 3), keepdim=True)).clamp(0, 255).byte().numpy()


def sources(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, str | Path]]:
    """Names and places of what is measured."""
    if options.source is not None:
        yield options.source, options.source
        return
    arrays, archive = folder / "images.npz", folder / "images.zip"
    np.savez(arrays, x=pictures(IMAGES, options.resolution), y=np.arange(IMAGES) % 10)
    prepare(open_source(arrays, "all"), archive, Preparation(quiet=True))
    yield f"zip of PNGs, {archive.stat().st_size / IMAGES / 1000:.1f} kB each", archive
    yield "npz", arrays


def measure(dataset: Dataset, workers: int, batch: int, count: int, folder: Path) -> tuple[int, Measurement]:
    """Images that were delivered, and what that took, start and end of the loader processes included."""
    config, world = StageConfig(steps=-(-count // batch), batch=batch, workers=workers), World(0, 1, resolve_device())
    batches = Trainer(TrainingJob(Untrained(), dataset, config, folder, 0, world, quiet=True))._batches()
    dataset.load([0], [0])  # the archive is open before the processes start, as in training
    before, clock = resource.getrusage(resource.RUSAGE_CHILDREN), Clock()
    delivered = sum(len(each.ids) for each in batches)
    measured, after = clock.stop(), resource.getrusage(resource.RUSAGE_CHILDREN)  # of processes that have ended
    return delivered, replace(measured, cpu=measured.cpu + sum(after[:2]) - sum(before[:2]))


@errors_told
def main(arguments: Sequence[str]) -> int:
    """Exit status: 1 where a source cannot be read."""
    options = parse(arguments)
    torch.set_num_threads(1)
    busy = f"GPUs at {options.gpu_rate:g} images/s that a worker with a core of its own keeps busy"
    print(f"| images | augment | workers | images/s | images per CPU s | {busy} |\n|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name, place in sources(options, Path(folder)):
            source = open_source(place, "train")
            for augment, workers in product(dict.fromkeys((0.0, options.augment)), options.workers):
                dataset = ImageDataset(source, augment=augment)
                count, cost = measure(dataset, workers, options.batch, options.count, Path(folder))
                gpus = f"{count / cost.cpu / options.gpu_rate:.0f}" if workers else "none: it waits"
                row = f"{name} | {augment:g} | {workers} | {count / cost.wall:,.0f} | {count / cost.cpu:,.0f}"
                print(f"| {row} | {gpus} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
