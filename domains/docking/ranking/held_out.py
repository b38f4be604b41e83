"""Poses of complexes that are not trained on, by which confidence is made the logit of a probability."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64

from domains.docking.batch import DockingBatch
from domains.docking.chemistry.pocket import Around
from domains.docking.complex import Complex
from domains.docking.crops import cut
from domains.docking.evaluation import confidences
from domains.docking.metrics.calibration import fit_calibration
from domains.docking.networks.confidence import ConfidenceNet
from domains.docking.networks.ranker import PoseRanker
from domains.docking.pose import Pose
from domains.docking.ranking.poses import LabelledPoses, PoseStore

logger = logging.getLogger("disco")


class HeldOut:
    """Complexes with known poses as requests, seen as where a user gives the pocket.

    margin: Angstrom; residues with an atom so near to the true pose are seen; None: whole proteins.
    """

    def __init__(self, complexes: Sequence[Complex], margin: float | None) -> None:
        known = [(each, each.ligand.coordinates) for each in complexes]
        self.complexes = [
            each if margin is None else cut(each, Around(truth, margin)) for each, truth in known if truth is not None
        ]

    def load(self, indices: Sequence[int] | np.ndarray, ids: Sequence[int] | np.ndarray) -> DockingBatch:
        """Samples ``ids`` of the complexes at ``indices``."""
        places = sorted({int(i) for i in indices})
        chosen = tuple(self.complexes[i] for i in places)
        return DockingBatch(torch.as_tensor(np.asarray(ids)), chosen, tuple(places.index(int(i)) for i in indices))


def scores_of(network: ConfidenceNet | PoseRanker, seen: Complex, poses: LabelledPoses) -> Float64[np.ndarray, " p"]:
    """Confidence [P] of the poses of a complex."""
    count = len(poses.rmsd)
    state = Pose.concatenate([poses.pose(number, seen) for number in range(count)])
    device = network.calibration.device
    batch = DockingBatch(torch.arange(count), (seen,), (0,) * count).to(device)
    return confidences(network, state.to(device), batch).double().cpu().numpy()


def calibrate(network: ConfidenceNet | PoseRanker, complexes: Sequence[Complex], store: PoseStore, good: float) -> None:
    """Set the network's ``calibration`` by the pose that it ranks first in every complex: right is an RMSD below
    ``good`` Angstrom. A network that does not rank, or has no poses here, is left uncalibrated, and that is said."""
    network.calibration.copy_(torch.tensor([1.0, 0.0]))
    kept = [(each, store.load(each.name)) for each in complexes]
    scored = [(scores_of(network, each, poses), poses.rmsd) for each, poses in kept if poses is not None]
    if not scored:
        logger.warning("confidence is not calibrated: there are no poses of held-out complexes")
        return
    logits = np.array([scores.max() for scores, _ in scored])
    right = np.array([rmsd[scores.argmax()] for scores, rmsd in scored]) < good  # of one without RMSD: no
    a, b = fit_calibration(logits, right)
    if a <= 0:
        logger.warning("confidence is not calibrated: first poses with a higher one are not more often right")
        return
    network.calibration.copy_(torch.tensor([a, b]))
    logger.info("confidence is calibrated: %d of %d held-out first poses are right", right.sum(), len(right))
