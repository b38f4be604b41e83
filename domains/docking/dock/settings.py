"""What a user may choose about a docking run."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt

from domains.docking.dock.rescore import Rescorer
from domains.docking.request import Site


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class DockSettings(Site):
    """Settings of ``disco dock``; the site is that of all complexes whose table row gives none of its own.

    poses: per complex; steps, sampler, guidance: of the reverse process, None for the model's own; seed: pose k of a
    complex depends on the seed, the id of the complex and k, and on nothing else; batch_size: poses per network call,
    which changes nothing but time and memory; check: PoseBusters; minimize: relax every pose in the rigid pocket;
    rescore: by other programs' scoring functions; trajectory: also write the way to every pose.
    """

    poses: PositiveInt = 40
    steps: PositiveInt | None = None
    sampler: str | None = None
    guidance: float | None = Field(default=None, ge=0)
    seed: int = Field(default=0, ge=0)
    batch_size: PositiveInt | Literal["auto"] = "auto"
    check: bool = False
    minimize: bool = False
    rescore: Annotated[tuple[Rescorer, ...], BeforeValidator(_several)] = ()
    trajectory: bool = False

    @property
    def site(self) -> Site:
        """Where to dock, alone."""
        return Site(**{name: getattr(self, name) for name in Site.model_fields})
