"""Training stages: modules whose forward is a loss over a batch. One loop trains them all."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from core.interfaces import Domain, Stage
from core.latents import drop_latents
from core.losses import denoising_loss
from core.rng import SampleStreams
from core.spaces import latent_space


class DenoiserStage(Stage):
    """Denoiser and encoder together by plain denoising (DisCo-Diff Alg. 1, Eq. 3)."""

    name = "denoiser"

    def __init__(self, domain: Domain) -> None:
        super().__init__()
        config = domain.config
        self.domain, self.geometry, self.drop = domain, domain.geometry(), config.latents.drop
        self.denoiser = domain.denoiser()
        with_latents = config.latents.kind != "none"
        self.encoder = domain.encoder() if with_latents else None
        self.space = latent_space(config.latents) if with_latents else None

    def forward(self, batch: Any, streams: SampleStreams) -> dict[str, Tensor]:
        """``loss`` [B], with the latents' ``penalty`` [B] where they have one."""
        t = self.domain.training_times(streams)
        latents, penalty = None, None
        if self.encoder is not None and self.space is not None:
            encoding = self.encoder(batch)
            latents = drop_latents(self.space.encode(encoding, streams), self.drop, streams)
            penalty = self.space.penalty(encoding)
        if self.domain.null_label is not None:
            dropped = streams.uniform(1)[:, 0] < self.domain.class_drop
            batch = batch.with_label(torch.where(dropped, self.domain.null_label, batch.label))
        loss = denoising_loss(self.denoiser, self.geometry, batch, t, latents, streams)
        if penalty is None or self.space is None or self.space.discrete:
            return {"loss": loss}
        return {"loss": loss + penalty, "penalty": penalty}

    def parts(self) -> dict[str, nn.Module]:
        parts: dict[str, nn.Module] = {"denoiser": self.denoiser}
        if self.encoder is not None:
            parts["encoder"] = self.encoder
        return parts


class PriorStage(Stage):
    """The prior on latents of the frozen encoder (DisCo-Diff Alg. 2, Eq. 4)."""

    name = "prior"

    def __init__(self, domain: Domain, trained: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.space = latent_space(domain.config.latents)
        self.domain, self.prior = domain, domain.initial_prior(trained)
        # In a tuple, so that it is no part of what this stage trains and saves.
        self._encoder = (trained["encoder"].requires_grad_(False).eval(),)

    def forward(self, batch: Any, streams: SampleStreams) -> dict[str, Tensor]:
        with torch.no_grad():
            encoder = self._encoder[0].to(batch.ids.device)
            values = self.space.extract(encoder(batch), streams)
        return {"loss": self.space.prior_loss(self.prior, batch, values, streams)}

    def parts(self) -> dict[str, nn.Module]:
        return {"prior": self.prior}

    def frozen(self, step: int) -> Iterable[nn.Parameter]:
        return self.domain.frozen_prior(self.prior, step)


def stage_names(domain: Domain) -> list[str]:
    """All stages of a run, in the order in which they are trained."""
    core_stages = [DenoiserStage.name] + ([PriorStage.name] if domain.config.latents.kind != "none" else [])
    return core_stages + list(domain.stages())


def build_stage(name: str, domain: Domain, trained: dict[str, nn.Module]) -> Stage:
    """An untrained stage; ``trained`` holds the parts of the stages before it."""
    if name == DenoiserStage.name:
        return DenoiserStage(domain)
    if name == PriorStage.name:
        return PriorStage(domain, trained)
    return domain.stages()[name](nn.ModuleDict(trained))
