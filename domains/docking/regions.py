"""Blind docking in two steps: find likely binding sites on the whole protein, then dock into the surroundings of each.

A denoiser that was trained on surroundings of ligands (``model.data.crop``) knows nothing of whole proteins. Where no
pocket was given, the samples of a complex are shared out among its best sites.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from core.pipeline import Pipeline
from domains.docking.chemistry.pocket import Sphere
from domains.docking.complex import Complex
from domains.docking.crops import cut
from domains.docking.sites.finder import SitePrediction, known_sites
from domains.docking.sites.network import SiteNet


@dataclass(frozen=True)
class DockedSite:
    """A predicted binding site. rank: from 1, best first; probability: that it is the ligand's; centre: Angstrom, frame
    of the protein's file."""

    rank: int
    probability: float
    centre: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Region:
    """Where some samples of a complex are docked: numbers ``first`` to ``last`` - 1, into ``complex``, which is all
    that was given where ``site`` is None."""

    complex: Complex
    first: int
    last: int
    site: DockedSite | None = None


def regions(each: Complex, network: SiteNet | None, samples: int, sites: int, margin: float) -> list[Region]:
    """The regions of ``samples`` samples of a complex.

    One region, the complex as it is, where a pocket was given or there is no site finder; else the surroundings of its
    best ``sites`` sites: all residues with an atom within the ligand's own reach and ``margin`` Angstrom of the centre.
    """
    receptor = each.receptor
    if network is None or receptor.protein.n_residues < receptor.whole.n_residues:
        return [Region(each, 0, samples)]
    found = known_sites(network, receptor.whole, sites)
    shares = allotted(np.array([site.score for site in found]), samples)
    ends = np.cumsum(shares)
    every = [_site(rank, site) for rank, site in enumerate(found, start=1)]
    return [
        Region(around_site(each, site.centre, margin), int(end - share), int(end), site)
        for site, share, end in zip(every, shares, ends, strict=True)
        if share
    ]


def around_site(each: Complex, centre: Sequence[float], margin: float) -> Complex:
    """All residues with an atom within the ligand's own reach and ``margin`` Angstrom of the centre of a site."""
    x, y, z = (float(value) for value in centre)
    place = each.graph["ligand"].pos.numpy()
    reach = float(np.linalg.norm(place - place.mean(axis=0), axis=1).max())
    return cut(each, Sphere((x, y, z), reach + margin))


def regions_of(pipeline: Pipeline, each: Complex, samples: int) -> list[Region]:
    """The regions of a complex under a model's own finder and settings."""
    sites, settings = pipeline.networks.get("sites"), pipeline.config.model.regions
    known = sites if isinstance(sites, SiteNet) else None
    return regions(each, known, samples, settings.sites, settings.margin)


def allotted(scores: np.ndarray, samples: int) -> Sequence[int]:
    """Samples of every site, best first: proportional to the roots of the scores, which leaves some for the doubtful
    ones; rounded by largest remainders, of equals the better site's first."""
    weight = np.sqrt(np.maximum(scores, 1e-12))
    exact = samples * weight / weight.sum()
    shares = np.floor(exact).astype(int)
    order = np.argsort(-(exact - shares), kind="stable")
    shares[order[: samples - shares.sum()]] += 1
    return [int(share) for share in shares]


def _site(rank: int, site: SitePrediction) -> DockedSite:
    x, y, z = (round(float(value), 3) for value in site.centre)
    return DockedSite(rank, round(site.probability, 3), (x, y, z))


def whole_code(code: int, region: Complex) -> int:
    """The node of the whole complex that a node of a region is."""
    atoms = region.ligand.n_atoms
    return code if code < atoms else atoms + int(region.receptor.protein.origin[code - atoms])


def ranked_together(
    confidence: Float64[np.ndarray, " p"], sites: Sequence[DockedSite | None], weight: float
) -> Float64[np.ndarray, " p"]:
    """Confidence plus ``weight`` times the log-odds of the site of every pose, so that poses in different sites can be
    ranked together; as it is where a pose has no site. What the confidence model itself can tell of a site is in its
    logit: the weight says what is left."""
    probability = [site.probability for site in sites if site is not None]
    if len(probability) < len(confidence):
        return confidence
    kept = np.clip(probability, 1e-3, 1 - 1e-3)
    return confidence + weight * (np.log(kept) - np.log1p(-kept))
