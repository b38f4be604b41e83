"""Poses to learn ranking from: made by the trained networks and from the true poses, kept in files of their own."""

import hashlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import nn

from core.errors import DataError
from core.files import write_atomically, write_text
from core.pipeline import Pipeline, Request
from core.rng import SampleStreams
from domains.docking.batch import DockingBatch
from domains.docking.complex import Complex
from domains.docking.evaluation import poses_in, sample_numbers
from domains.docking.metrics.rmsd import symmetry_rmsd
from domains.docking.pose import Pose, pose_of
from domains.docking.ranking.config import RankingConfig
from domains.docking.ranking.decoys import decoy_regions
from domains.docking.sites.network import SiteNet
from domains.docking.write import folder_name, pose_positions

logger = logging.getLogger("disco")
ABOUT = "about.json"
DIGEST = 32  # bytes of SHA-256 behind the content, which readers of zip archives pass over
SYMMETRY_LIMIT = 2.0  # seconds per ligand
SAID_EVERY = 50  # complexes


@dataclass(frozen=True, eq=False)
class LabelledPoses:
    """Poses of one complex. positions: Angstrom, in the frame of the protein's file; rmsd: from the true pose,
    Angstrom, corrected for symmetry, NaN where not found; sampled: False for those made from the true pose; site: 0 for
    those made in the surroundings of the true pose, else the number of the wrong site that they were made in."""

    name: str
    positions: Float32[np.ndarray, "p n 3"]
    rmsd: Float[np.ndarray, " p"]
    sampled: Bool[np.ndarray, " p"]
    site: Int[np.ndarray, " p"]

    def pose(self, number: int, seen: Complex) -> Pose:
        """Pose ``number`` in the frame of what is seen of its complex."""
        moved = (self.positions[number] - seen.receptor.centre).astype(np.float32)
        return pose_of(seen.graph, torch.from_numpy(moved))


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
            return LabelledPoses(name, file["positions"], file["rmsd"], file["sampled"], file["site"])

    def save(self, poses: LabelledPoses) -> None:
        """Raises StorageError."""
        file = io.BytesIO()
        np.savez(file, positions=poses.positions, rmsd=poses.rmsd, sampled=poses.sampled, site=poses.site)
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
    """Poses of the complexes at ``places``: sampled ones, true ones with noise, then sampled ones in wrong sites.

    Raises DataError where a true pose is not known.
    """
    every = [dataset.complexes[i] for i in places]
    for each in every:
        if each.ligand.coordinates is None:
            raise DataError(f"{each.name}: its true pose is not known, so its poses cannot be judged")
    ends = np.cumsum([config.poses, config.noisy, config.decoys]).tolist()
    numbers = [sample_numbers(each.name, ends[-1]) for each in every]
    batch = dataset.load(
        [i for i in places for _ in range(config.poses)], [k for each in numbers for k in each[: ends[0]]]
    ).to(pipeline.device)
    sampled = _sampled(pipeline, batch, config)
    noisy = _noisy(pipeline, batch, [each[ends[0] : ends[1]] for each in numbers], config)
    decoys = _decoys(pipeline, every, [each[ends[1] :] for each in numbers], config)
    made = []
    for row, each in enumerate(every):
        wrong, sites = decoys[row]
        near = [sampled[row * config.poses :][: config.poses], noisy[row * config.noisy :][: config.noisy]]
        positions = np.stack([pose for part in (*near, wrong) for pose in part])
        is_sampled = np.repeat([True, False, True], [config.poses, config.noisy, len(wrong)])
        made.append(_labelled(each, positions, is_sampled, np.array([0] * ends[1] + sites)))
    return made


def _sampled(pipeline: Pipeline, batch: DockingBatch, config: RankingConfig) -> list[np.ndarray]:
    """The poses of a request, Angstrom, in the frame of the protein's file."""
    request = Request(seed=pipeline.config.seed, steps=config.steps)
    state, _ = pipeline.solve(batch, pipeline.latents_for(request, batch), request)
    return [pose_positions(state, batch, row) for row in range(batch.size)]


def _decoys(
    pipeline: Pipeline, every: Sequence[Complex], numbers: Sequence[range], config: RankingConfig
) -> list[tuple[list[np.ndarray], list[int]]]:
    """Poses of every complex in its wrong sites, and the numbers of these sites, from 1."""
    if not config.decoys:
        return [([], []) for _ in every]
    network, margin = pipeline.networks["sites"], pipeline.config.model.regions.margin
    assert isinstance(network, SiteNet)
    regions = [decoy_regions(network, each, config.decoys, margin) for each in every]
    sites = [[n for n, r in enumerate(found, start=1) for _ in range(r.first, r.last)] for found in regions]
    places = list(chain.from_iterable(regions))
    if not places:
        return [([], []) for _ in every]
    ids = [k for each, of in zip(numbers, sites, strict=True) for k in each[: len(of)]]
    poses = iter(_sampled(pipeline, poses_in(places, ids).to(pipeline.device), config))
    return [(list(islice(poses, len(of))), of) for of in sites]


def _noisy(
    pipeline: Pipeline, batch: DockingBatch, numbers: Sequence[range], config: RankingConfig
) -> list[np.ndarray]:
    """True poses with the noise of times evenly from 0 to ``noise_time``, complex after complex."""
    if not config.noisy:
        return []
    first = torch.arange(len(numbers)).repeat_interleave(config.noisy) * config.poses
    ids = torch.tensor([number for each in numbers for number in each], device=batch.ids.device)
    chosen = replace(batch.select(first), ids=ids)
    times = torch.linspace(0, config.noise_time, config.noisy).repeat(len(numbers)).to(ids.device)
    streams = SampleStreams(pipeline.config.seed, ids, "noisy poses", ids.device)
    state = pipeline.domain.finish(pipeline.geometry.corrupt(chosen.clean, times, streams).state, chosen)
    return [pose_positions(state, chosen, row) for row in range(chosen.size)]


def _labelled(
    each: Complex, positions: np.ndarray, sampled: Bool[np.ndarray, " p"], site: Int[np.ndarray, " p"]
) -> LabelledPoses:
    assert each.ligand.coordinates is not None
    found = symmetry_rmsd(each.ligand.mol, each.ligand.coordinates, positions, SYMMETRY_LIMIT)
    if found.reason is not None:
        logger.warning("%s: %s", each.name, found.reason)
    return LabelledPoses(each.name, positions.astype(np.float32), found.values, sampled, site)
