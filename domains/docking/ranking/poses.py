"""Poses to learn ranking from: made by the trained networks and from the true poses, kept in files of their own."""

import hashlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import nn

from core.errors import DataError
from core.files import write_atomically, write_text
from core.pipeline import Pipeline, Request
from core.rng import SampleStreams
from domains.docking.batch import DockingBatch
from domains.docking.complex import Complex
from domains.docking.evaluation import sample_numbers
from domains.docking.metrics.rmsd import symmetry_rmsd
from domains.docking.ranking.config import RankingConfig
from domains.docking.write import folder_name, pose_positions

logger = logging.getLogger("disco")
ABOUT = "about.json"
DIGEST = 32  # bytes of SHA-256 behind the content, which readers of zip archives pass over
SYMMETRY_LIMIT = 2.0  # seconds per ligand
SAID_EVERY = 50  # complexes


@dataclass(frozen=True, eq=False)
class LabelledPoses:
    """Poses of one complex. positions: Angstrom, in the frame of the protein's file; rmsd: from the true pose,
    Angstrom, corrected for symmetry, NaN where not found; sampled: False for those made from the true pose."""

    name: str
    positions: Float32[np.ndarray, "p n 3"]
    rmsd: Float[np.ndarray, " p"]
    sampled: Bool[np.ndarray, " p"]


@runtime_checkable
class Complexes(Protocol):
    """What poses are made for: a data set of docking."""

    @property
    def complexes(self) -> Sequence[Complex]: ...
    def load(self, indices: Sequence[int] | np.ndarray, ids: Sequence[int] | np.ndarray) -> DockingBatch: ...


class PoseStore:
    """A folder with one npz file per complex, each with its SHA-256 behind it; never seen half written.

    about: what the poses follow from; a folder of other poses is emptied.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.folder, self.about = folder, json.dumps(about, sort_keys=True, indent=1)

    def open(self) -> None:
        """Empty the folder where its poses follow from something else."""
        path = self.folder / ABOUT
        if path.exists() and path.read_text(encoding="utf-8") == self.about:
            return
        left_over = sorted(self.folder.glob("*.npz"))
        if left_over:
            logger.warning("%s: its poses were made by other networks or settings; they are made anew", self.folder)
        for old in left_over:
            old.unlink()
        write_text(path, self.about)

    def path(self, name: str) -> Path:
        return self.folder / f"{folder_name(name)}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.npz"

    def load(self, name: str) -> LabelledPoses | None:
        """The poses of a complex; None where there are none, or the file is damaged (which is said)."""
        path = self.path(name)
        if not path.exists():
            return None
        content = path.read_bytes()
        data, digest = content[:-DIGEST], content[-DIGEST:]
        if hashlib.sha256(data).digest() != digest:
            logger.warning("%s is damaged: its poses are made again", path)
            return None
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return LabelledPoses(name, file["positions"], file["rmsd"], file["sampled"])

    def save(self, poses: LabelledPoses) -> None:
        """Raises StorageError."""
        file = io.BytesIO()
        np.savez(file, positions=poses.positions, rmsd=poses.rmsd, sampled=poses.sampled)
        data = file.getvalue()
        write_atomically(self.path(poses.name), lambda path: path.write_bytes(data + hashlib.sha256(data).digest()))


def weights_digest(networks: Mapping[str, nn.Module]) -> str:
    """SHA-256 of the weights of networks."""
    digest = hashlib.sha256()
    for part, network in sorted(networks.items()):
        for name, value in network.state_dict().items():
            digest.update(f"{part}.{name}{tuple(value.shape)}".encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def make_all(
    pipeline: Pipeline, dataset: Complexes, store: PoseStore, config: RankingConfig, rank: int = 0, size: int = 1
) -> None:
    """Make the poses that the store lacks, ``config.batch`` complexes at a time; every ``size``-th batch from ``rank``
    on. Poses follow from the names of the complexes of their batch, the networks and the seed of the run."""
    count = len(dataset.complexes) if config.complexes is None else min(config.complexes, len(dataset.complexes))
    batches = [range(start, min(start + config.batch, count)) for start in range(0, count, config.batch)][rank::size]
    done, said = 0, 0
    for places in batches:
        missing = [i for i in places if store.load(dataset.complexes[i].name) is None]
        if missing:  # the whole batch, so that its numbers do not depend on where an earlier run was stopped
            for poses in make_poses(pipeline, dataset, places, config):
                store.save(poses)
        done += len(places)
        if missing and done >= said + SAID_EVERY:
            said = done
            logger.info("poses to rank: %d of %d complexes", done * size, count)


def make_poses(
    pipeline: Pipeline, dataset: Complexes, places: Sequence[int], config: RankingConfig
) -> list[LabelledPoses]:
    """Poses of the complexes at ``places``: sampled ones, then true ones with noise. Raises DataError where a true pose
    is not known."""
    numbers = [sample_numbers(dataset.complexes[i].name, config.poses + config.noisy) for i in places]
    batch = dataset.load(
        [i for i in places for _ in range(config.poses)], [k for each in numbers for k in each[: config.poses]]
    ).to(pipeline.device)
    request = Request(seed=pipeline.config.seed, steps=config.steps)
    state, _ = pipeline.solve(batch, pipeline.latents_for(request, batch), request)
    noisy = _noisy(pipeline, batch, numbers, config)
    made = []
    for place in range(len(places)):
        rows = range(place * config.poses, (place + 1) * config.poses)
        positions = [pose_positions(state, batch, row) for row in rows]
        positions += [noisy[place * config.noisy + k] for k in range(config.noisy)]
        made.append(_labelled(batch.complexes[batch.index[rows[0]]], np.stack(positions), config.poses))
    return made


def _noisy(
    pipeline: Pipeline, batch: DockingBatch, numbers: Sequence[range], config: RankingConfig
) -> list[np.ndarray]:
    """True poses with the noise of times evenly from 0 to ``noise_time``, complex after complex."""
    if not config.noisy:
        return []
    first = torch.arange(len(numbers)).repeat_interleave(config.noisy) * config.poses
    ids = torch.tensor([number for each in numbers for number in each[config.poses :]], device=batch.ids.device)
    chosen = replace(batch.select(first), ids=ids)
    times = torch.linspace(0, config.noise_time, config.noisy).repeat(len(numbers)).to(ids.device)
    streams = SampleStreams(pipeline.config.seed, ids, "noisy poses", ids.device)
    state = pipeline.domain.finish(pipeline.geometry.corrupt(chosen.clean, times, streams).state, chosen)
    return [pose_positions(state, chosen, row) for row in range(chosen.size)]


def _labelled(each: Complex, positions: np.ndarray, sampled: int) -> LabelledPoses:
    if each.ligand.coordinates is None:
        raise DataError(f"{each.name}: its true pose is not known, so its poses cannot be judged")
    found = symmetry_rmsd(each.ligand.mol, each.ligand.coordinates, positions, SYMMETRY_LIMIT)
    if found.reason is not None:
        logger.warning("%s: %s", each.name, found.reason)
    return LabelledPoses(each.name, positions.astype(np.float32), found.values, np.arange(len(positions)) < sampled)
