"""Settings of the training of the confidence model."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from core.config import Section


class RankingConfig(Section):
    """The stage ``confidence``: poses of every training complex, made once, and how the model learns to rank them.

    poses: per complex that the trained networks make, in ``steps`` of the sampler (None: the model's own); decoys:
    likewise, in wrong sites of the same protein, as blind docking does where it errs (needs ``model.sites``); noisy:
    poses per complex made from the true one, by the noise of times evenly from 0 (the true pose itself) to
    ``noise_time``; held_out: poses of every validation complex, by the best-ranked ones of which confidence is
    calibrated (0: it is not), as many as users ask for; complexes: at most so many of the training complexes, None for
    all; batch: complexes per network call while poses are made.
    group: poses of one complex per training sample, half of them good where there are so many; thresholds: RMSD in
    Angstrom below which a pose is good, one for each output of the model, the first is what is ranked by; softness: of
    these labels, in Angstrom (0: yes or no); pair_weight: of the loss on the order of the poses of a complex; initial:
    whose backbone the model starts from, as far as their sizes agree.
    """

    poses: PositiveInt = 8
    steps: PositiveInt | None = None
    decoys: int = Field(default=0, ge=0)
    noisy: int = Field(default=4, ge=0)
    noise_time: float = Field(default=0.6, ge=0, le=1)
    held_out: int = Field(default=40, ge=0)
    complexes: PositiveInt | None = None
    batch: PositiveInt = 4
    group: PositiveInt = 4
    thresholds: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (2.0, 5.0)
    softness: float = Field(default=0.25, ge=0)
    pair_weight: float = Field(default=1.0, ge=0)
    initial: Literal["denoiser", "encoder", "none"] = "denoiser"
