"""One cost of docking, measured in this process: ``python -m benchmarks.docking_costs sample --model DIR``."""

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.measurement import STARTED, Clock, Measurement
from core.pipeline import Pipeline, Request
from core.rng import SampleStreams
from core.training.stage import build_stage
from domains.docking.batch import DockingBatch
from domains.docking.complex import Complex
from domains.docking.data import read_complex
from domains.docking.evaluation import confidences, poses_of
from domains.docking.pose import Pose, pose_of

COMPLEX = Path(__file__).parents[1] / "tests" / "data" / "docking" / "complexes" / "1bvi"


def _complex(pipeline: Pipeline, folder: Path, seed: int) -> Complex:
    """The complex, with random numbers where the networks read a language model's."""
    each = read_complex(folder)
    width, residues = pipeline.config.model.language_dim, each.graph["receptor"]
    if width:
        residues.language = 0.3 * torch.randn(len(residues.x), width, generator=torch.Generator().manual_seed(seed))
    return each


def measure_start(options: argparse.Namespace) -> Measurement:
    """Imports and networks, all from the start of the process."""
    clock = Clock()
    clock.cpu, clock.parts["imports"] = 0.0, time.process_time()
    clock.wall -= time.time() - float(os.environ[STARTED])
    with clock.part("networks"):
        Pipeline.from_pretrained(options.model, device="cpu")
    return clock.stop()


def measure_prepare(options: argparse.Namespace) -> Measurement:
    """Files to graph, with the conformer laid on the true pose."""
    clock = Clock()
    read_complex(options.complex)
    return clock.stop()


def anchor(pipeline: Pipeline, each: Complex) -> None:
    """Replace the translation score by the exact one of a ligand that belongs at its true centre.

    Random weights let the ligand drift out of reach of the protein, where there are no edges to compute; this keeps
    their number as with a trained model and changes nothing else. A peer must do the same.
    """
    home = each.graph["ligand"].crystal.mean(0)

    def replace_score(_: Any, inputs: tuple[Any, ...], scores: dict[str, Any]) -> dict[str, Any]:
        sigma = pipeline.geometry.sigma(*inputs[:2])["tr"]
        return {**scores, "tr": ((home - inputs[0].centroid()) / sigma**2).to(scores["tr"])}

    pipeline.denoiser.register_forward_hook(replace_score)


def measure_sample(options: argparse.Namespace) -> Measurement:
    """Ranked poses of one complex that is read already."""
    pipeline = Pipeline.from_pretrained(options.model, device="cpu")
    each = _complex(pipeline, options.complex, options.seed)
    anchor(pipeline, each)

    def run(clock: Clock, samples: int, steps: int) -> None:
        request = Request(seed=options.seed, steps=steps)
        batch = poses_of(each, samples)
        with clock.part("prior"):
            latents = pipeline.latents_for(request, batch)
        with clock.part("denoising"):
            poses, _ = pipeline.solve_in_pieces(batch, latents, request)
        with clock.part("confidence"):
            confidences(pipeline.networks["confidence"], poses, batch)  # type: ignore[arg-type]

    run(Clock(), 2, 1)  # warms up
    clock = Clock()
    run(clock, options.samples, options.steps)
    return clock.stop()


def measure_train(options: argparse.Namespace) -> Measurement:
    """Steps of denoiser and encoder on copies of one complex, per step, after one to warm up."""
    pipeline = Pipeline.from_pretrained(options.model, device="cpu")
    each = _complex(pipeline, options.complex, options.seed)
    stage = build_stage("denoiser", pipeline.domain, {}).train()
    optimizer = torch.optim.AdamW(stage.parameters(), lr=1e-3, foreach=True)

    def step(clock: Clock, number: int) -> None:
        with clock.part("data"):
            ids = torch.arange(options.copies) + number * options.copies
            clean = Pose.concatenate([pose_of(each.graph, each.graph["ligand"].matched)] * options.copies)
            batch = DockingBatch(ids, (each,), (0,) * options.copies, clean)
        with clock.part("forward"):
            optimizer.zero_grad(set_to_none=True)
            loss = stage(batch, SampleStreams(options.seed, ids, "noise", "cpu"))["loss"].mean()
        with clock.part("backward"):
            loss.backward()
        with clock.part("optimiser"):
            optimizer.step()

    step(Clock(), 0)
    clock = Clock()
    for number in range(1, options.steps + 1):
        step(clock, number)
    return clock.stop(options.steps)


MEASURE: Mapping[str, Callable[[argparse.Namespace], Measurement]] = {
    "startup": measure_start, "prepare": measure_prepare, "sample": measure_sample, "train": measure_train,
}  # fmt: skip


def main() -> None:
    """Print one measurement as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=MEASURE)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--complex", type=Path, default=COMPLEX)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, required=True)
    options = parser.parse_args()
    print(json.dumps(asdict(MEASURE[options.command](options))))


if __name__ == "__main__":
    main()
