"""Wrong binding sites of a protein whose ligand is known: where blind docking goes when the site finder errs."""

import numpy as np

from domains.docking.complex import Complex
from domains.docking.regions import Region, around_site
from domains.docking.sites.finder import find_sites
from domains.docking.sites.measures import site_distances
from domains.docking.sites.network import SiteNet

FAR = 8.0  # Angstrom from the centre of a wrong site to the ligand, and to its images in copies of its chains
LOOKED_AT = 5  # of the best sites
MOST = 2  # wrong sites of a protein


def decoy_regions(network: SiteNet, whole: Complex, count: int, margin: float) -> list[Region]:
    """Surroundings of the best-scored wrong sites, which share ``count`` poses equally, the better ones first; none
    where all sites are near the ligand. Raises ValueError where the true pose is not known."""
    protein, truth = whole.receptor.whole, whole.ligand.coordinates
    if truth is None:
        raise ValueError(f"{whole.name}: its true pose is not known")
    sites = find_sites(network, protein, LOOKED_AT)
    distance = site_distances(sites, protein, truth).copy
    wrong = [sites[i].centre.tolist() for i in np.flatnonzero(distance > FAR)][: min(MOST, count)]
    ends = [round(count * (number + 1) / len(wrong)) for number in range(len(wrong))]
    return [
        Region(around_site(whole, centre, margin), first, last)
        for centre, first, last in zip(wrong, [0, *ends], ends, strict=False)
    ]
