"""Where the time of the docking networks goes, and how close their matrix products come to the machine's own speed.

    python -m benchmarks.docking_profile --complex FOLDER [--copies 8] [--repeats 5]

Networks have the released sizes and random weights. On one thread, for each case: CPU milliseconds (best of the
repeats), floating-point operations in matrix products, the share of the time that they take, their speed and how much
of the speed of one large product that is. (Memory is what ``benchmarks.docking`` measures: here the profiler's counts.)
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.docking_costs import COMPLEX
from core.geometry.so3 import IGSO3
from domains.docking.data import read_complex
from domains.docking.graph import Structure
from domains.docking.networks.backbone import BackboneOptions
from domains.docking.networks.confidence import ConfidenceNet, ConfidenceOptions
from domains.docking.networks.denoiser import DockingDenoiser
from domains.docking.networks.encoder import DockingEncoder
from domains.docking.networks.latents import LatentInput
from domains.docking.noise import DockingNoise

LANGUAGE = 1280
PRODUCTS = ("aten::mm", "aten::bmm", "aten::addmm")
LARGE = 1536  # rows and columns of the product that gives the machine's speed


@dataclass(frozen=True)
class Row:
    """Milliseconds of CPU, 1e9 operations in matrix products, their share of the time, their 1e9 operations/s."""

    name: str
    cpu_ms: float
    gflop: float
    share: float
    speed: float


def cpu_seconds(call: Callable[[], object], repeats: int) -> float:
    """Best of several, after one to warm up."""
    call()
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return best


def measure(name: str, call: Callable[[], object], repeats: int) -> Row:
    """Time it alone; then take the share of matrix products from a profile of one more call."""
    seconds = cpu_seconds(call, repeats)
    with profile(activities=[ProfilerActivity.CPU], with_flops=True) as found:
        call()
    events = found.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    products = [event for event in events if event.key in PRODUCTS]
    spent = sum(event.self_cpu_time_total for event in products)
    flop = sum(event.flops for event in products)
    return Row(name, 1e3 * seconds, flop / 1e9, spent / total, flop / spent / 1e3)


def complexes(folder: Path, copies: int) -> Structure:
    """The complex with random numbers in place of a language model's."""
    graph = read_complex(folder).graph
    residues = len(graph["receptor"].x)
    graph["receptor"].language = 0.3 * torch.randn(residues, LANGUAGE, generator=torch.Generator().manual_seed(0))
    return Structure.of([graph] * copies).to("cpu", torch.float32)


def noisy(structure: Structure, noise: DockingNoise, t: Tensor) -> Tensor:
    """Ligands around the C-alphas' mean, moved by the translation's noise at times t [B]."""
    ligand = torch.randn(len(structure.atoms), 3, generator=torch.Generator().manual_seed(1)) * 4
    away = torch.randn(structure.size, 3, generator=torch.Generator().manual_seed(2)) * noise.sigmas(t)[0][:, None]
    return ligand + away[structure.atom_sample]


def cases(options: argparse.Namespace) -> list[Row]:
    """A score evaluation early, midway and late in a run, a confidence, a training step on several copies."""
    noise, latents = DockingNoise(igso3=IGSO3(0.5)), LatentInput("pointer", 2)
    sizes = BackboneOptions(latent_width=2, dropped=True, language=LANGUAGE)
    denoiser = DockingDenoiser(sizes, noise, latents).eval()
    one, rows = complexes(options.complex, 1), []
    with torch.no_grad():
        for time_left in (0.9, 0.5, 0.1):
            t = torch.tensor([time_left])
            score = partial(denoiser.flat_scores, one, noisy(one, noise, t), t, latents(one, None))
            rows.append(measure(f"score, t = {time_left}", score, options.repeats))
        confidence = ConfidenceNet(ConfidenceOptions(language=LANGUAGE)).eval()
        pose = noisy(one, noise, torch.tensor([0.1]))
        rows.append(measure("confidence", lambda: confidence(one, pose), options.repeats))
    rows.append(training(options, denoiser, noise))
    return rows


def training(options: argparse.Namespace, denoiser: DockingDenoiser, noise: DockingNoise) -> Row:
    """Denoiser and encoder, forward, backward and an optimiser step."""
    batch, latents = complexes(options.complex, options.copies), denoiser.latents
    encoder = DockingEncoder(
        BackboneOptions(
            layers=3, vectors=4, sigma_dim=0, language=LANGUAGE, cross_radius=30.0, cross_cutoff=30.0, dropout=0.0
        ),
        latents,
    )
    both = nn.ModuleList([denoiser, encoder]).train()
    optimizer = torch.optim.AdamW(both.parameters(), lr=1e-4, foreach=True)
    t = torch.linspace(0.05, 0.95, options.copies)
    place, crystal = noisy(batch, noise, t), noisy(batch, noise, torch.full_like(t, 0.05))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        logits = encoder.logits(batch, crystal)
        known = latents(batch, None)
        out = denoiser.flat_scores(batch, place, t, known)
        loss = sum((score.square().mean() for score in out), logits.values.square().mean())
        loss.backward()
        optimizer.step()

    return measure(f"training step, {options.copies} copies", step, options.repeats)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--complex", type=Path, default=COMPLEX, help="folder with protein.pdb and ligand.sdf")
    parser.add_argument("--copies", type=int, default=8, help="samples of the training step")
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    options = parse(arguments)
    square = torch.randn(LARGE, LARGE)
    peak = 2 * LARGE**3 / cpu_seconds(lambda: square @ square, options.repeats) / 1e9
    print(f"one product of {LARGE} x {LARGE}: {peak:.0f} GFLOP/s\n")
    print("| case | CPU ms | GFLOP in products | share of time | GFLOP/s in products | of the large product |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for row in cases(options):
        print(
            f"| {row.name} | {row.cpu_ms:.0f} | {row.gflop:.2f} | {row.share:.0%} | {row.speed:.0f} "
            f"| {row.speed / peak:.0%} |"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
