"""Binding sites out of the network's opinion on single points."""

from dataclasses import dataclass
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float64
from scipy.spatial import cKDTree

from domains.docking.chemistry.protein import Protein
from domains.docking.sites.config import SitesConfig
from domains.docking.sites.features import PointCloud, point_cloud
from domains.docking.sites.network import SiteNet

LINING = 4.0  # Angstrom from a heavy atom to a point of the site: residues that line it
CORE = 0.1  # of the site's densest point: points with less are not counted as part of it


@dataclass(frozen=True, eq=False)
class SitePrediction:
    """A place where the ligand may bind.

    centre: [3] Angstrom, frame of the protein; score: its share of the choice among all points of the protein, shares
    of all sites add up to at most 1; probability: that its centre is within 4 Angstrom of an atom of the ligand;
    points: [k, 3] probe points that make it up; residues: numbers of the residues that line it.
    """

    centre: Float64[np.ndarray, " 3"]
    score: float
    probability: float
    points: Float64[np.ndarray, "k 3"]
    residues: tuple[int, ...]


_Answer = tuple[tuple[int, ...], tuple[SitePrediction, ...]]  # what was asked, and what was found
_ANSWERS: WeakKeyDictionary[SiteNet, WeakKeyDictionary[Protein, _Answer]] = WeakKeyDictionary()


def known_sites(network: SiteNet, protein: Protein, count: int = 5) -> tuple[SitePrediction, ...]:
    """``find_sites``, looked for once per protein of a library: the last answer on a protein is kept for as long as
    protein and network live, and holds while the weights and ``count`` stay what they were."""
    weights = chain(network.parameters(), network.buffers())
    asked = (count, *(number for w in weights for number in (w._version, w.data_ptr())))
    answers = _ANSWERS.setdefault(network, WeakKeyDictionary())
    found = answers.get(protein)
    if found is None or found[0] != asked:
        found = answers[protein] = (asked, find_sites(network, protein, count))
    return found[1]


def find_sites(network: SiteNet, protein: Protein, count: int = 5) -> tuple[SitePrediction, ...]:
    """The best ``count`` sites of a protein or fewer, best first; always at least one."""
    cloud = point_cloud(protein)
    share = point_shares(network, cloud)
    a, b = network.calibration.tolist()
    return tuple(
        _prediction(protein, cloud.positions, share, members, (a, b))
        for members in clusters(cloud.positions, share, count, network.config)
    )


@torch.inference_mode()
def point_shares(network: SiteNet, cloud: PointCloud) -> Float64[np.ndarray, " p"]:
    """[P] probability that a random point of the ligand's is this one; they add up to 1."""
    was_training = network.training
    network.eval()
    device = network.calibration.device
    features = torch.from_numpy(cloud.features).to(device, torch.float32)
    logits = network(features, torch.from_numpy(cloud.neighbours).to(device, torch.int64))
    network.train(was_training)
    return logits[:, 1].double().softmax(0).cpu().numpy()


def clusters(
    points: Float64[np.ndarray, "p 3"], share: Float64[np.ndarray, " p"], count: int, config: SitesConfig
) -> list[np.ndarray]:
    """Numbers of the points of every site, best first: again and again the ball that holds the largest share.

    Points of a ball are taken out, and a ball whose centre lies too near to an earlier one is passed over. The first
    ball is always kept.
    """
    pairs = cKDTree(points).sparse_distance_matrix(cKDTree(points), config.site_radius, output_type="coo_matrix")
    near = pairs.tocsr()
    near.data[:] = 1.0
    left = share.copy()
    found: list[np.ndarray] = []
    centres: list[np.ndarray] = []
    while len(found) < count and left.max() > 0:
        best = int(np.argmax(near @ left))
        ball = near[best].indices
        members = ball[left[ball] > CORE * left[ball].max()]
        centre = weighted_centre(points, left, members)
        if all(np.linalg.norm(centre - other) >= config.separation for other in centres):
            found.append(members)
            centres.append(centre)
        left[ball] = 0
    return found


def weighted_centre(points: np.ndarray, share: np.ndarray, members: np.ndarray) -> Float64[np.ndarray, " 3"]:
    """[3] mean of the points ``members``, weighted with their shares; Angstrom."""
    return (points[members] * share[members, None]).sum(0) / share[members].sum()


def logit(score: float | np.ndarray) -> Any:
    """log(s / (1 - s)), of shares kept away from 0 and 1."""
    kept = np.clip(score, 1e-6, 1 - 1e-6)
    return np.log(kept / (1 - kept))


def _prediction(
    protein: Protein, points: np.ndarray, share: np.ndarray, members: np.ndarray, calibration: tuple[float, float]
) -> SitePrediction:
    score = float(share[members].sum())
    distance, _ = cKDTree(points[members]).query(protein.positions, distance_upper_bound=LINING)
    return SitePrediction(
        weighted_centre(points, share, members),
        score,
        float(1 / (1 + np.exp(-(calibration[0] * logit(score) + calibration[1])))),
        points[members],
        tuple(np.unique(protein.residue[np.isfinite(distance)]).tolist()),
    )
