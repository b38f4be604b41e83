"""Base of domains on flat space (points, images): everything that follows from the configuration alone."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from core.config import NoiseConfig, RunConfig, Section
from core.continuous import GaussianSpace
from core.errors import ConfigError, RequestError
from core.geometry import Euclidean
from core.geometry.euclidean import Weighting
from core.interfaces import Domain
from core.noise import (
    CosineTable,
    EDMWeighting,
    LinearBeta,
    LogNormal,
    LogUniform,
    MonotonicWeighting,
    NoiseDistribution,
    inverse_square,
    resolution_shift,
)
from core.precondition import (
    EDMPrecondition,
    IDDPMPrecondition,
    Precondition,
    VEPrecondition,
    VPPrecondition,
)
from core.prior import TransformerPrior
from core.rng import SampleStreams
from core.schedules import PATHS, sampling_levels
from core.spaces import latent_space
from core.transformer import Condition
from core.types import Batch


class FlatConfig(Section):
    """What every flat domain's ``model`` section has. class_drop: share of samples trained without their class."""

    noise: NoiseConfig = NoiseConfig()
    class_drop: float = Field(default=0.0, ge=0, lt=1)


class FlatDomain(Domain):
    """A domain whose samples are tensors of fixed shapes. Subclasses give data, encoder, denoiser, evaluation."""

    classes: int = 0  # number of classes, 0 = unconditional

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        if config.model.class_drop and not self.classes:
            raise ConfigError(f"model.class_drop needs classes, and this '{self.name}' model has none: set it to 0")

    @property
    def class_drop(self) -> float:
        share: float = self.config.model.class_drop
        return share

    @property
    def null_label(self) -> int | None:
        return self.classes if self.class_drop else None

    @property
    @abstractmethod
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of one sample per field."""

    @property
    def noise(self) -> NoiseConfig:
        noise: NoiseConfig = self.config.model.noise
        return noise

    def noise_distribution(self) -> NoiseDistribution:
        """p(sigma) of training."""
        noise = self.noise
        choices = {
            "lognormal": lambda: LogNormal(noise.mean + self._shift(), noise.std),
            "loguniform": lambda: LogUniform(noise.sigma_min, noise.sigma_max),
            "linear-beta": LinearBeta,
            "cosine": CosineTable,
        }
        return choices[noise.distribution]()

    def weighting(self) -> Weighting:
        """lambda(sigma)."""
        noise = self.noise
        choices: dict[str, Weighting] = {
            "edm": EDMWeighting(noise.sigma_data),
            "edm-monotonic": MonotonicWeighting(
                self.noise_distribution(), noise.sigma_data, noise.mean, noise.std, self._shift()
            ),
            "inverse-square": inverse_square,
            "uniform": torch.ones_like,
        }
        return choices[noise.weighting]

    def precondition(self) -> Precondition:
        """The four factors around the raw network."""
        choices: dict[str, Precondition] = {
            "edm": EDMPrecondition(self.noise.sigma_data),
            "vp": VPPrecondition(),
            "ve": VEPrecondition(),
            "iddpm": IDDPMPrecondition(),
        }
        return choices[self.noise.precondition]

    def _shift(self) -> float:
        return resolution_shift(self.noise.resolution) if self.noise.resolution else 0.0

    def geometry(self) -> Euclidean:
        return Euclidean(self.shapes, PATHS[self.noise.path](), self.weighting(), self.noise.dimensions)

    def same_process(self, other: Domain) -> bool:
        if not (super().same_process(other) and isinstance(other, FlatDomain)):
            return False
        ours, theirs = (replace(domain.geometry(), weighting=torch.ones_like) for domain in (self, other))
        return ours == theirs and self.classes == other.classes

    def training_times(self, streams: SampleStreams) -> Tensor:
        return self.geometry().time_at(self.noise_distribution().sample(streams))

    def sampling_times(self, steps: int) -> Tensor:
        noise = self.noise
        levels = sampling_levels(noise.grid, steps, noise.sigma_min, noise.sigma_max, noise.rho)
        return self.geometry().time_at(levels)

    def prior(self) -> nn.Module:
        space, c = latent_space(self.config.latents), self.config.prior
        condition = Condition(c.width, self.classes)
        if isinstance(space, GaussianSpace):
            return space.build_prior(c.width, c.depth, c.heads, c.dropout, condition)
        return TransformerPrior(space.count, space.width, c.width, c.depth, c.heads, c.dropout, condition)

    def request(self, ids: Sequence[int], **spec: Any) -> Batch:
        """spec ``label``: one class number for all, one per sample, or None (classes in turn by sample number)."""
        label = spec.pop("label", None)
        if spec:
            raise RequestError(f"domain '{self.name}' takes no '{next(iter(spec))}'")
        numbers = torch.as_tensor(list(ids))
        if not self.classes:
            if label is not None:
                raise RequestError(f"this '{self.name}' model has no classes: leave --class away")
            return Batch(numbers)
        classes = numbers % self.classes if label is None else torch.as_tensor(label)
        if classes.shape not in ((), (1,), numbers.shape):
            raise RequestError(f"{len(numbers)} samples need one class or {len(numbers)}, not {tuple(classes.shape)}")
        classes = classes.expand(len(numbers))
        if ((classes < 0) | (classes >= self.classes)).any():
            raise RequestError(f"class {label} does not exist: this model has classes 0 to {self.classes - 1}")
        return Batch(numbers, label=classes)
