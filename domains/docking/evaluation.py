"""``disco evaluate`` for docking: poses of every complex of a split, ranked and judged like Table 4 of the paper."""

import hashlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.errors import RequestError
from core.files import write_atomically, write_text
from core.pipeline import Pipeline, Request
from core.types import Latents
from domains.docking.batch import DockingBatch
from domains.docking.complex import Complex
from domains.docking.config import EvaluationConfig
from domains.docking.data import DockingDataset, complex_files
from domains.docking.metrics.poses import judge_poses
from domains.docking.metrics.table import ComplexResult, Summary, summarise
from domains.docking.networks.confidence import ConfidenceNet
from domains.docking.pose import Pose
from domains.docking.write import pose_positions

logger = logging.getLogger("disco")
SHOWN = ("rmsd_below_2", "rmsd_below_5", "rmsd_median", "centroid_below_2", "steric_clash", "valid")


def sample_numbers(name: str, count: int) -> range:
    """Numbers of the random streams of a complex's poses: the same whatever else is docked beside it."""
    first = int.from_bytes(hashlib.sha256(name.encode()).digest()[:5], "little") << 20
    return range(first, first + count)


def poses_of(each: Complex, count: int) -> DockingBatch:
    """A request for ``count`` poses of one complex."""
    return DockingBatch(torch.tensor(sample_numbers(each.name, count)), (each,), (0,) * count)


@torch.no_grad()
def confidences(network: ConfidenceNet, poses: Pose, batch: DockingBatch) -> Float[Tensor, " b"]:
    """[B] first logit of the confidence model: higher is better, of poses of the same complex only."""
    dtype = next(network.parameters()).dtype
    values = [
        network(batch.select(slice(i, i + 1)).structure(dtype), poses.select(slice(i, i + 1)).flat.to(dtype))
        for i in range(batch.size)
    ]
    return torch.cat(values)[:, 0]


def judge(
    poses: Pose, batch: DockingBatch, numbers: Sequence[int], confidence: Tensor | None = None, **about: Any
) -> ComplexResult:
    """The poses at ``numbers`` of a batch, all of one complex whose true pose is known, against that pose."""
    each = batch.complexes[batch.index[numbers[0]]]
    if each.ligand.coordinates is None:
        raise RequestError(f"{each.name}: its true pose is not known: there is nothing to measure against")
    return judge_poses(
        each.ligand.mol, each.ligand.coordinates, np.stack([pose_positions(poses, batch, i) for i in numbers]),
        each.receptor.protein.positions, name=each.name,
        confidence=None if confidence is None else confidence.cpu().double().numpy(), **about,
    )  # fmt: skip


def figures_of(results: Sequence[ComplexResult]) -> dict[str, float]:
    """Figures of a random pose of each complex."""
    figures = summarise(results, resamples=1).row("full", "random", "1").figures
    return {name: figures[name].value for name in SHOWN if name in figures}


def evaluate_docking(
    pipeline: Pipeline, dataset: DockingDataset, config: EvaluationConfig, request: Request, out: Path
) -> dict[str, dict[str, float]]:
    """Dock ``request.count`` poses in all, ``config.poses`` for each of the first complexes of the data set.

    Writes OUT/table.md (bootstrap intervals over complexes), evaluation.json and curves.png; returns one row of figures
    per source of latents, ranking and number of poses considered.
    """
    from domains.docking.metrics.render import plot, to_json, to_markdown  # brings Matplotlib with it

    complexes = dataset.complexes[: max(1, request.count // config.poses)]
    every: dict[str, list[ComplexResult]] = {}
    rows: dict[str, dict[str, float]] = {}
    summaries: dict[str, Summary] = {}
    sources = config.latents if pipeline.space is not None else ("none",)
    for source in sources:
        results = []
        for number, each in enumerate(complexes, start=1):
            results.append(_dock_one(pipeline, dataset, each, config, request, source))
            logger.info("%s latents: %d of %d complexes", source, number, len(complexes))
        every[source], summaries[source] = results, summarise(results)
        for row in summaries[source].groups[0].rows:
            rows[f"{source}, {row.order} top-{row.top}"] = {k: row.figures[k].value for k in SHOWN if k in row.figures}
    text = "\n\n".join(f"## latents: {name}\n\n{to_markdown(summary)}" for name, summary in summaries.items())
    write_text(out / "table.md", text + "\n")
    write_text(out / "evaluation.json", "{" + ",".join(f'"{n}": {to_json(s)}' for n, s in summaries.items()) + "}")
    figure = plot(every)
    write_atomically(out / "curves.png", lambda path: figure.savefig(path, format="png", dpi=120))
    return rows


def _dock_one(
    pipeline: Pipeline, dataset: DockingDataset, each: Complex, config: EvaluationConfig, request: Request, source: str
) -> ComplexResult:
    batch = poses_of(each, config.poses).to(pipeline.device)
    start = time.perf_counter()
    latents = _latents(pipeline, batch, request, source)
    poses, _ = pipeline.solve_in_pieces(batch, latents, request)
    network = pipeline.networks.get("confidence")
    confidence = confidences(network, poses, batch) if isinstance(network, ConfidenceNet) else None
    seconds = time.perf_counter() - start
    protein = complex_files(dataset.folder / each.name)[0] if config.pose_checks else None
    return judge(
        poses, batch, range(batch.size), confidence, unseen=each.name in dataset.unseen, seconds=seconds,
        pose_checks=protein,
    )  # fmt: skip


def _latents(pipeline: Pipeline, batch: DockingBatch, request: Request, source: str) -> Latents | None:
    if source in ("none", "prior"):
        return pipeline.latents_for(request, batch)
    latents = pipeline.encode(batch, request.seed)
    return latents.dropped() if source == "dropped" else latents
