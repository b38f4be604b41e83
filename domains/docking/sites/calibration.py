"""From the share of the choice that a site has to the probability that it is the ligand's."""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Bool, Float64

from domains.docking.chemistry.protein import Protein
from domains.docking.sites.finder import find_sites, logit
from domains.docking.sites.measures import HIT, site_distances
from domains.docking.sites.network import SiteNet

RIDGE = 1e-3
STEPS = 25


def calibrate(network: SiteNet, complexes: Iterable[tuple[Protein, np.ndarray]], count: int = 5) -> None:
    """Set the network's ``calibration`` by its sites in proteins with known ligands [n, 3] that it was not trained on.

    Raises ValueError where there are none.
    """
    scores: list[float] = []
    hits: list[bool] = []
    for protein, ligand in complexes:
        sites = find_sites(network, protein, count)
        scores += [site.score for site in sites]
        hits += (site_distances(sites, protein, ligand).atom < HIT).tolist()
    a, b = fit_calibration(np.array(scores), np.array(hits, dtype=bool))
    network.calibration.copy_(torch.tensor([a, b]))


def fit_calibration(scores: Float64[np.ndarray, " s"], hits: Bool[np.ndarray, " s"]) -> tuple[float, float]:
    """(a, b) of the logistic regression P(hit) = sigmoid(a logit(score) + b) (Platt 1999), by Newton's method."""
    if not len(scores):
        raise ValueError("no sites with known ligands to calibrate on")
    inputs = np.stack([logit(scores), np.ones(len(scores))], axis=1)
    weights = np.zeros(2)
    for _ in range(STEPS):
        expected = 1 / (1 + np.exp(-inputs @ weights))
        gradient = inputs.T @ (expected - hits) + RIDGE * weights
        curvature = (inputs.T * (expected * (1 - expected))) @ inputs + RIDGE * np.eye(2)
        weights = weights - np.linalg.solve(curvature, gradient)
    return float(weights[0]), float(weights[1])
