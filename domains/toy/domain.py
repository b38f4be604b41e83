"""The paper's 2-D toy: eight Gaussians on a circle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import PositiveFloat, PositiveInt

from core.config import LatentConfig
from core.data import TensorDataset
from core.errors import ConfigError, DataError
from core.files import write_atomically
from core.flat import FlatConfig, FlatDomain
from core.interfaces import Denoiser, DiscreteEncoder
from core.pipeline import Generated
from core.rng import SampleStreams
from core.spaces import latent_space
from core.types import Batch, FlatState
from domains.toy.metrics import evaluate_points
from domains.toy.mixture import Mixture
from domains.toy.networks import ToyDenoiser, ToyEncoder

SPLITS = {"train": 0, "val": 1}


class ToyConfig(FlatConfig):
    """The ``model`` section of toy runs. per_mode: training points per Gaussian; width: hidden units of the MLPs."""

    radius: PositiveFloat = 3.0
    spread: PositiveFloat = 0.2
    per_mode: PositiveInt = 1000
    width: PositiveInt = 64
    encoder_width: PositiveInt = 64


class ToyDomain(FlatDomain):
    """2-D mixture of eight Gaussians with density and score in closed form (the paper's section 3.2)."""

    name = "toy"
    Config = ToyConfig
    shapes: Mapping[str, tuple[int, ...]] = {"x": (2,)}

    @property
    def model(self) -> ToyConfig:
        model: ToyConfig = self.config.model
        return model

    @property
    def mixture(self) -> Mixture:
        return Mixture.eight(self.model.radius, self.model.spread)

    def dataset(self, split: str) -> TensorDataset:
        """Equally many points per Gaussian, the same for every run (their seed is no setting)."""
        if split not in SPLITS:
            raise DataError(f"unknown split '{split}'; known: {', '.join(SPLITS)}")
        size = 8 * self.model.per_mode
        points, _ = self.mixture.balanced(self.model.per_mode, SampleStreams(SPLITS[split], range(size), "toy/data"))
        return TensorDataset({"x": points.float()})

    def encoder(self) -> DiscreteEncoder:
        return ToyEncoder(self._one_latent(), self.model.encoder_width, self.mixture.std)

    def denoiser(self) -> Denoiser:
        codes = latent_space(self._one_latent()).width if self.config.latents.kind != "none" else 0
        return ToyDenoiser(self.model.width, self.model.spread, self.mixture.std, codes)

    def _one_latent(self) -> LatentConfig:
        if self.config.latents.count != 1:
            count = self.config.latents.count
            raise ConfigError(f"the toy's networks take one latent: set latents.count=1, not {count}")
        return self.config.latents

    def evaluate(self, samples: FlatState, batch: Batch) -> dict[str, float]:
        return evaluate_points(self.mixture, samples["x"])

    def write(self, result: Generated, out: Path) -> list[Path]:
        path = out / "samples.npz"

        def save(temporary: Path) -> None:
            with temporary.open("wb") as handle:
                np.savez(handle, x=result.state["x"].cpu().numpy(), id=result.batch.ids.cpu().numpy())

        write_atomically(path, save)
        return [path]

    def figures(self, pipeline: Any, out: Path) -> list[Path]:
        from domains.toy.figures import draw_figures

        return draw_figures({"model": pipeline}, out)
