"""Settings of the low-temperature sampler that the authors tuned on their validation set (paper section 4.7)."""

from collections.abc import Mapping
from typing import Any

from domains.docking.noise import FIELDS, DockingNoise


def _setting(*triples: tuple[float, float, float]) -> tuple[str, Mapping[str, Any]]:
    """(translation, rotation, torsion) of inverse temperature, psi and sigma_data."""
    names = ("temperature", "psi", "sigma_data")
    return "low-temperature", {
        name: dict(zip(FIELDS, triple, strict=True)) for name, triple in zip(names, triples, strict=True)
    }


def _data_levels(*shares: float) -> tuple[float, float, float]:
    """sigma_data of each part, which the authors give as a share a of the way from min to max in log scale."""
    ranges = [getattr(DockingNoise, name) for name in FIELDS]
    tr, rot, tor = (low ** (1 - a) * high**a for a, (low, high) in zip(shares, ranges, strict=True))
    return tr, rot, tor


PUBLISHED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "low-temperature-disco": _setting(
        (1.546842681537956, 4.005218254154881, 3.6499018519649384),
        (1.2685697872473618, 1.2760150490206228, 2.0625243924678136),
        _data_levels(0.8456140350087653, 0.453446580767075, 0.3292199987743284),
    ),
    "low-temperature-diffdock-s": _setting(
        (1.886430780895051, 5.659562317960644, 2.8888668488630156),
        (0.07085125444659945, 2.686505606141324, 4.089493860493927),
        _data_levels(0.3617563913086843, 0.7437588205919711, 0.08897393057297842),
    ),
}
LATENT_TEMPERATURE = 1 / 0.22313016014842982  # exp(1.5): the prior samples hotter than it was trained (section 4.7)
