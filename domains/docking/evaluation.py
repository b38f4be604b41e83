"""``disco evaluate`` for docking: poses of every complex of a split, ranked and judged like Table 4 of the paper."""

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.errors import DataError, DiscoError, RequestError
from core.files import write_atomically, write_text
from core.latents import keep_all
from core.pipeline import Pipeline, Request
from core.rng import SampleStreams
from core.types import LatentLogits, Latents
from domains.docking.batch import DockingBatch
from domains.docking.chemistry.pocket import Around
from domains.docking.complex import Complex
from domains.docking.config import EvaluationConfig
from domains.docking.crops import cut
from domains.docking.data import DockingDataset
from domains.docking.metrics.poses import judge_poses
from domains.docking.metrics.table import ComplexResult, Row, summarise
from domains.docking.networks.confidence import ConfidenceNet
from domains.docking.networks.ranker import PoseRanker
from domains.docking.pose import Pose
from domains.docking.regions import Region, ranked_together, regions_of
from domains.docking.write import pose_positions

logger = logging.getLogger("disco")
RANKED_AT_ONCE = 64  # poses per call of the coarse confidence model
SHOWN = {
    "rmsd_below_2": "% < 2 A", "rmsd_below_5": "% < 5 A", "rmsd_median": "median A",
    "centroid_below_2": "% centre < 2 A", "steric_clash": "% clash", "valid": "% valid",
}  # fmt: skip


def sample_numbers(name: str, count: int) -> range:
    """Numbers of the random streams of a complex's poses: the same whatever else is docked beside it."""
    first = int.from_bytes(hashlib.sha256(name.encode()).digest()[:5], "little") << 20
    return range(first, first + count)


def poses_of(each: Complex, count: int) -> DockingBatch:
    """A request for ``count`` poses of one complex."""
    return poses_in([Region(each, 0, count)])


def poses_in(places: Sequence[Region], numbers: Sequence[int] | None = None) -> DockingBatch:
    """A request for the poses of all regions; numbers: of their random streams, None for those of one complex."""
    index = tuple(number for number, place in enumerate(places) for _ in range(place.first, place.last))
    ids = torch.tensor(sample_numbers(places[0].complex.name, len(index)) if numbers is None else numbers)
    return DockingBatch(ids, tuple(place.complex for place in places), index)


@torch.no_grad()
def confidences(network: ConfidenceNet | PoseRanker, poses: Pose, batch: DockingBatch) -> Float[Tensor, " b"]:
    """[B] first logit of the confidence model, as calibrated: higher is better, of poses of the same complex only."""
    dtype = next(network.parameters()).dtype
    at_once = RANKED_AT_ONCE if isinstance(network, PoseRanker) else 1
    pieces = [slice(start, start + at_once) for start in range(0, batch.size, at_once)]
    values = [network(batch.select(each).structure(dtype), poses.select(each).flat.to(dtype)) for each in pieces]
    a, b = network.calibration.unbind()
    return a * torch.cat(values)[:, 0] + b


def judge(
    poses: Pose, batch: DockingBatch, numbers: Sequence[int], confidence: Tensor | None = None, **about: Any
) -> ComplexResult:
    """The poses at ``numbers`` of a batch, all of one complex whose true pose is known, against that pose."""
    each = batch.complexes[batch.index[numbers[0]]]
    if each.ligand.coordinates is None:
        raise RequestError(f"{each.name}: its true pose is not known: there is nothing to measure against")
    return judge_poses(
        each.ligand.mol, each.ligand.coordinates, np.stack([pose_positions(poses, batch, i) for i in numbers]),
        each.receptor.whole, name=each.name,
        confidence=None if confidence is None else confidence.cpu().double().numpy(), **about,
    )  # fmt: skip


def figures_of(results: Sequence[ComplexResult]) -> dict[str, float]:
    """Figures of a random pose of each complex."""
    return _shown(summarise(results, resamples=1).row("full", "random", "1"))


def _shown(row: Row) -> dict[str, float]:
    return {label: row.figures[name].value for name, label in SHOWN.items() if name in row.figures}


@dataclass(frozen=True)
class Evaluation:
    """What is docked, and how: ``config.poses`` poses of every complex of the data."""

    pipeline: Pipeline
    dataset: DockingDataset
    config: EvaluationConfig
    request: Request

    def run(self, out: Path) -> dict[str, dict[str, float]]:
        """Write OUT/table.md (bootstrap intervals over complexes), evaluation.json (every figure of every complex) and
        curves.png; returns one row of figures per source of latents, ranking and number of poses considered.

        A complex that fails, in preparation or on the way, counts as a miss with its reason and stops no other.
        Raises RequestError where the model lacks what the sources of latents need, DataError where nothing worked.
        """
        from domains.docking.metrics.render import plot, to_json, to_markdown  # brings Matplotlib with it

        data, sources = self.dataset, self._sources()
        every = {source: self._dock_all(source) for source in sources}
        summaries = {source: summarise(results) for source, results in every.items()}
        said = f"{len(data.names)} of {data.total} complexes"
        tables = (f"## latents: {name}\n\n{to_markdown(summary)}" for name, summary in summaries.items())
        write_text(out / "table.md", "\n\n".join([f"{said}, {self.config.poses} poses each", *tables]) + "\n")
        record = {
            "complexes": len(data.names), "of": data.total, "poses": self.config.poses,
            "summary": {name: json.loads(to_json(summary)) for name, summary in summaries.items()},
            "results": {name: [_plain(result) for result in results] for name, results in every.items()},
        }  # fmt: skip
        write_text(out / "evaluation.json", json.dumps(record, allow_nan=False))
        figure = plot(every)
        write_atomically(out / "curves.png", lambda path: figure.savefig(path, format="png", dpi=120))
        rows = {}
        for source, summary in summaries.items():
            for row in summary.groups[0].rows:
                name = "oracle" if row.top == "oracle" else f"{row.order} top-{row.top}"
                rows[f"{source} {name}"] = _shown(row)
        return rows

    def _sources(self) -> Sequence[str]:
        pipeline = self.pipeline
        if pipeline.space is None:
            return ("none",)
        for source in self.config.latents:
            part = "prior" if source == "prior" else "encoder"
            if source != "dropped" and part not in pipeline.networks:
                raise RequestError(f"this model has no {part}: choose other model.evaluation.latents than '{source}'")
        return self.config.latents

    def _dock_all(self, source: str) -> list[ComplexResult]:
        data = self.dataset
        results = [ComplexResult.failed(name, name in data.unseen, why) for name, why in data.left_out.items()]
        for number, each in enumerate(data.complexes, start=1):
            try:
                results.append(self._dock_one(each, source))
            except (DiscoError, RuntimeError) as error:
                logger.warning("%s failed: %s", each.name, error)
                results.append(ComplexResult.failed(each.name, each.name in data.unseen, str(error)))
            logger.info("%s latents: %d of %d complexes", source, number, len(data.complexes))
        if all(result.failure for result in results):
            raise DataError(f"every complex failed; the first: {results[0].failure}")
        return results

    def _dock_one(self, each: Complex, source: str) -> ComplexResult:
        start = time.perf_counter()
        places = self._places(each)
        batch = poses_in(places).to(self.pipeline.device)
        poses, _ = self.pipeline.solve_in_pieces(batch, self._latents(batch, source), self.request)
        confidence = self.pipeline.domain.scores(self.pipeline.networks, poses, batch).get("confidence")
        if confidence is not None:
            sites, weight = [places[number].site for number in batch.index], self.pipeline.config.model.regions.weight
            confidence = torch.from_numpy(ranked_together(confidence.double().cpu().numpy(), sites, weight))
        seconds, unseen = time.perf_counter() - start, each.name in self.dataset.unseen
        return judge(
            poses, batch, range(batch.size), confidence, unseen=unseen, seconds=seconds,
            pose_checks=self.config.pose_checks,
        )  # fmt: skip

    def _places(self, each: Complex) -> list[Region]:
        """The surroundings of the true pose where ``pocket`` says so, else where a user without a pocket gets poses."""
        count = self.config.poses
        if self.config.pocket is not None and each.ligand.coordinates is not None:
            return [Region(cut(each, Around(each.ligand.coordinates, self.config.pocket)), 0, count)]
        return regions_of(self.pipeline, each, count)

    def _latents(self, batch: DockingBatch, source: str) -> Latents | None:
        if source in ("none", "prior"):
            return self.pipeline.latents_for(self.request, batch)
        space = self.pipeline.space
        assert space is not None
        if source == "dropped":
            return keep_all(
                torch.zeros(batch.size, space.count, space.codebook(batch), device=batch.ids.device)
            ).dropped()
        # Every region is encoded once.
        first = torch.tensor([batch.index.index(number) for number in range(len(batch.complexes))])
        with torch.no_grad():
            logits: LatentLogits = self.pipeline.networks["encoder"](batch.select(first))
        rows = torch.tensor(batch.index, device=batch.ids.device)
        wide = LatentLogits(logits.values[rows], None if logits.mask is None else logits.mask[rows])
        return keep_all(space.extract(wide, SampleStreams(self.request.seed, batch.ids, "oracle", batch.ids.device)))


def _plain(result: ComplexResult) -> dict[str, Any]:
    """For JSON: arrays as lists, what is not finite as null."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return [plain(item) for item in value.tolist()]
        return None if isinstance(value, float) and not np.isfinite(value) else value

    return {name: plain(value) for name, value in vars(result).items()}
