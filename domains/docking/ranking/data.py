"""Groups of poses of training complexes as a data set."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from core.errors import DataError
from core.rng import SampleStreams
from domains.docking.batch import DockingBatch
from domains.docking.data import DockingDataset
from domains.docking.pose import Pose
from domains.docking.ranking.config import RankingConfig
from domains.docking.ranking.poses import LabelledPoses, PoseStore


@dataclass(frozen=True)
class PoseBatch:
    """poses: the poses of every group one after the other, as clean samples; rmsd: [B] Angstrom."""

    poses: DockingBatch
    rmsd: Float[Tensor, " b"]

    @property
    def ids(self) -> Int[Tensor, " b"]:
        return self.poses.ids

    def to(self, device: torch.device | str) -> "PoseBatch":
        return PoseBatch(self.poses.to(device), self.rmsd.to(device))


class PoseDataset:
    """One sample is ``config.group`` poses of one complex, each in the surroundings of its site that ``dataset`` gives.

    Raises DataError where no complex of the store has a pose with a known RMSD.
    """

    def __init__(self, dataset: DockingDataset, store: PoseStore, config: RankingConfig) -> None:
        self.dataset, self.config = dataset, config
        self.content_hash = hashlib.sha256(store.about.encode()).hexdigest()
        found = [(place, store.load(each.name)) for place, each in enumerate(dataset.complexes[: config.complexes])]
        self.poses = [
            (place, poses, np.flatnonzero(np.isfinite(poses.rmsd)))
            for place, poses in found
            if poses is not None and np.isfinite(poses.rmsd).any()
        ]
        if not self.poses:
            raise DataError(f"{store.folder}: no pose with a known RMSD: there is nothing to learn ranking from")

    def __len__(self) -> int:
        return len(self.poses)

    def load(self, indices: Sequence[int] | np.ndarray, ids: Sequence[int] | np.ndarray) -> PoseBatch:
        """Groups ``ids`` of the complexes at ``indices``; which poses follows from the number alone."""
        chosen, numbers, group = [self.poses[int(i)] for i in indices], [int(i) for i in ids], self.config.group
        base = self.dataset.load([place for place, _, _ in chosen], numbers)
        complexes, index = list(base.complexes), list[int]()
        fields, rmsd = [], []
        for row, (number, (place, poses, known)) in enumerate(zip(numbers, chosen, strict=True)):
            seen = {0: base.index[row]}  # surroundings of every site
            for k in known[choose(poses.rmsd[known], self.config.thresholds[0], group, number)].tolist():
                site = int(poses.site[k])
                if site not in seen:
                    seen[site] = len(complexes)
                    complexes.append(self.dataset.around(place, _some_pose_in(poses, site, number), number))
                each = complexes[seen[site]]
                index.append(seen[site])
                fields.append(poses.pose(k, each))
                rmsd.append(poses.rmsd[k])
        each_id = base.ids.repeat_interleave(group)
        batch = DockingBatch(each_id, tuple(complexes), tuple(index), Pose.concatenate(fields))
        return PoseBatch(batch, torch.tensor(np.array(rmsd), dtype=torch.float32))


def _some_pose_in(poses: LabelledPoses, site: int, number: int) -> Float64[np.ndarray, "n 3"]:
    """A pose in a wrong site whose surroundings are seen there, as those of the true pose are in the right one."""
    there = np.flatnonzero(poses.site == site)
    share = float(SampleStreams(0, [number], "whose surroundings").uniform(1)[0, 0])
    return poses.positions[there[int(share * len(there))]].astype(np.float64)


def choose(rmsd: Float[np.ndarray, " p"], threshold: float, group: int, number: int) -> Int[np.ndarray, " g"]:
    """Places of ``group`` poses at random, half of them below the threshold as far as there are such; of fewer poses
    than a group has, some come twice."""
    order = np.argsort(SampleStreams(0, [number], "which poses").uniform(len(rmsd))[0].numpy())
    good, bad = order[rmsd[order] < threshold], order[rmsd[order] >= threshold]
    wanted = max(group // 2, group - len(bad))
    chosen = np.concatenate([good[:wanted], bad[: group - min(wanted, len(good))]])
    return np.resize(chosen, group)
