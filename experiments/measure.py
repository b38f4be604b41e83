"""What the demo measures on one trained model, written as JSON.

python -m experiments.measure RUN_FOLDER -o measured.json [--samples 2000]
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.diagnostics import Curve, loss_by_level
from core.files import write_text
from core.latents import code_usage
from core.metrics import frechet_distance
from core.pipeline import Pipeline, Request
from core.reports import real_batch
from core.rng import SampleStreams
from core.samplers import make_sampler
from domains.images.data import load_images
from domains.images.metrics import evaluate_images, hidden_features
from domains.toy.figures import run_exact, run_model, trajectory_curves
from domains.toy.metrics import code_purity, evaluate_points
from domains.toy.mixture import Mixture
from domains.toy.sampling import low_variance_samples

# Network evaluations -> how they are spent.
DIGIT_RUNS = {4: ("dpmpp-2m", 4), 6: ("dpmpp-2m", 6), 8: ("dpmpp-2m", 8), 12: ("dpmpp-2m", 12), 35: ("heun", 18)}
LOSS_LEVELS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)


def measure_toy(pipeline: Pipeline, samples: int) -> dict[str, Any]:
    """Wasserstein-2 of independent and of low-variance samples, what each code stands for, and figure 4's curves."""
    mixture: Mixture = pipeline.domain.mixture  # type: ignore[attr-defined]
    independent = evaluate_points(mixture, pipeline.generate(Request(count=samples)).state["x"])
    stratified = evaluate_points(mixture, low_variance_samples(pipeline, samples))
    numbers = {
        "w2_independent": independent["w2"], "w2_low_variance": stratified["w2"], "spread": stratified["spread"],
    }  # fmt: skip
    if pipeline.space is not None:
        batch = real_batch(pipeline)
        purity = code_purity(
            pipeline.encode(batch).codes[:, 0], mixture.nearest(batch.clean["x"]), pipeline.space.width
        )
        numbers |= {"min_purity": float(purity.purity.nan_to_num(1.0).min()), "modes_owned": float(purity.modes_owned)}
    curves = trajectory_curves({"model": run_model(pipeline)})
    return {"numbers": numbers, "curves": {name: group["model"] for name, group in curves.items()}}


def measure_digits(pipeline: Pipeline, samples: int) -> dict[str, Any]:
    """Class accuracy and Frechet distances at several numbers of evaluations, code usage, loss by noise level."""
    numbers: dict[str, float] = {}
    for sampler, steps in DIGIT_RUNS.values():
        result = pipeline.generate(Request(count=samples, steps=steps, sampler=make_sampler(sampler)))
        figures = evaluate_images("digits", result.state["x"], result.batch.label)
        numbers |= {f"{name}@{result.nfe}": value for name, value in figures.items()}
    batch = real_batch(pipeline, split="val")
    curves = {"without latents": loss_by_level(pipeline, batch, LOSS_LEVELS, with_latents=False)}
    if pipeline.space is not None:
        curves["with latents"] = loss_by_level(pipeline, batch, LOSS_LEVELS, with_latents=True)
        codes = pipeline.encode(real_batch(pipeline)).codes
        numbers["mean_perplexity"] = float(code_usage(codes, pipeline.space.width).perplexity.mean())
    return {"numbers": numbers, "curves": curves}


def toy_references(samples: int, draws: int = 5) -> dict[str, dict[str, list[float]]]:
    """What true points and exact scores reach: the floors of the toy's numbers."""
    from core.config_file import load_config
    from core.registry import get_domain

    config = load_config(Path(__file__).parent / "toy" / "plain.yaml")
    pipeline = Pipeline(get_domain("toy")(config), {})
    mixture: Mixture = pipeline.domain.mixture  # type: ignore[attr-defined]

    def w2(points: Tensor) -> float:
        return evaluate_points(mixture, points)["w2"]

    per_mode = samples // len(mixture.means)
    floor: dict[str, list[float]] = {"w2_independent": [], "w2_low_variance": []}
    for draw in range(draws):
        streams = SampleStreams(draw, range(samples), "toy/floor")
        floor["w2_independent"].append(w2(mixture.independent(streams)))
        equal = SampleStreams(draw, range(per_mode * len(mixture.means)), "toy/floor/balanced")
        floor["w2_low_variance"].append(w2(mixture.balanced(per_mode, equal)[0]))
    exact = run_exact(pipeline, conditional=False, count=samples).states[-1].state["x"]
    return {"true points": floor, "exact score": {"w2_independent": [w2(exact)]}}


def digits_reference(samples: int, draws: int = 5) -> dict[str, list[float]]:
    """Frechet distances of ``samples`` real digits, drawn with replacement, to all real digits: the floor."""
    real = load_images("digits", "all").fields["x"]
    floor: dict[str, list[float]] = {"fd_hidden": [], "fd_pixels": []}
    for draw in range(draws):
        chosen = real[torch.randint(len(real), (samples,), generator=torch.Generator().manual_seed(draw))]
        hidden = hidden_features("digits", real)
        floor["fd_hidden"].append(frechet_distance(hidden_features("digits", chosen), hidden))
        floor["fd_pixels"].append(frechet_distance(chosen.flatten(1), real.flatten(1)))
    return floor


MEASURES = {"toy": measure_toy, "images": measure_digits}


def to_json(result: Mapping[str, Any]) -> str:
    return json.dumps(result, default=asdict, indent=1)


def read_curves(result: Mapping[str, Any]) -> dict[str, Curve]:
    """Curves of a measurement that was read from JSON."""
    return {name: Curve(**curve) for name, curve in result["curves"].items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=2000)
    options = parser.parse_args()
    pipeline = Pipeline.from_pretrained(options.run)
    measured = MEASURES[pipeline.config.domain](pipeline, options.samples)
    about = {"samples": options.samples, "weights": dict(pipeline.manifest.weights)}
    write_text(options.out, to_json({**about, **measured}))


if __name__ == "__main__":
    main()
