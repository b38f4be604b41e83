"""From the share of the choice that a site has to the probability that it is the ligand's."""

from collections.abc import Iterable

import numpy as np
import torch

from domains.docking.chemistry.protein import Protein
from domains.docking.metrics.calibration import fit_calibration
from domains.docking.sites.finder import find_sites, logit
from domains.docking.sites.measures import HIT, site_distances
from domains.docking.sites.network import SiteNet


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
    a, b = fit_calibration(logit(np.array(scores)), np.array(hits, dtype=bool))
    network.calibration.copy_(torch.tensor([a, b]))
