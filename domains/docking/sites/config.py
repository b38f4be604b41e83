"""Settings of the binding-site finder."""

from pydantic import Field, PositiveFloat, PositiveInt

from core.config import Section


class SitesConfig(Section):
    """Distances in Angstrom.

    width, rounds: of the network; dropout: of its hidden numbers.
    label_radius: a point belongs to the ligand where a heavy atom of it is so near; copies: likewise near its image in
    other copies of the same chain, for the loss of single points; point_weight: of that loss against the loss of the
    choice among all points of a protein.
    site_radius: points so near make one site; separation: of the centres of different sites.
    """

    width: PositiveInt = 48
    rounds: int = Field(default=2, ge=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    label_radius: PositiveFloat = 3.0
    copies: bool = True
    point_weight: float = Field(default=1.0, ge=0)
    site_radius: PositiveFloat = 8.0
    separation: PositiveFloat = 8.0
