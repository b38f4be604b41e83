"""The contracts. A new domain implements these and nothing else (see docs/new-domain.md)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, runtime_checkable

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from core.config import RunConfig
from core.rng import SampleStreams
from core.training.distributed import World
from core.types import Corrupted, LatentLogits, Latents, Samples, State, Tangent


class Geometry(ABC, Generic[State]):
    """The space a state lives in, and the noise that is put on it.

    Times ``t`` are [B] tensors. The denoiser always sees the *canonical* state, in which the noise is
    variance-exploding; for most geometries canonical and physical state are the same thing.
    """

    flat: ClassVar[bool] = False  # True where tangents at different points can be added (multistep samplers need it)
    level_is_sigma: ClassVar[bool] = True  # False where noise levels are no multiples of sigma (churn needs that)

    @property
    def gaussian(self) -> bool:
        """False where noise is not Gaussian (PFGM++): adding some does not lead from one noise level to another."""
        return True

    @abstractmethod
    def noise_level(self, t: Tensor) -> Tensor:
        """[B] the level the denoiser is conditioned on, increasing in t (images: sigma)."""

    @abstractmethod
    def time_at(self, level: Tensor) -> Tensor:
        """Inverse of ``noise_level``."""

    @abstractmethod
    def sigma(self, state: State, t: Tensor) -> Tangent:
        """Noise level per field, broadcastable to the field."""

    @abstractmethod
    def diffusivity(self, state: State, t: Tensor) -> Tangent:
        """d sigma^2 / dt per field, broadcastable to the field."""

    @abstractmethod
    def corrupt(self, clean: State, t: Tensor, streams: SampleStreams) -> Corrupted[State]:
        """Noisy canonical state at time t, target score and loss weight per field."""

    @abstractmethod
    def sample_noise(self, batch: Any, t: Tensor, streams: SampleStreams) -> State:
        """Physical state of pure noise at time t, for every sample of the request."""

    @abstractmethod
    def draw(self, state: State, streams: SampleStreams) -> Tangent:
        """Unit Gaussian in the tangent space at ``state``."""

    @abstractmethod
    def retract(self, state: State, step: Tangent) -> State:
        """Move along a tangent. ``retract(state, 0)`` is ``state``."""

    @abstractmethod
    def distance(self, first: State, second: State) -> Tensor:
        """[B] distance between the samples of two physical states (for diagnostics)."""

    @abstractmethod
    def concatenate(self, states: Sequence[State]) -> State:
        """States of several batches, one after the other (guidance evaluates all branches in one call)."""

    @abstractmethod
    def split(self, tangent: Tangent, parts: int) -> list[Tangent]:
        """Inverse of ``concatenate`` for tangents of ``parts`` equal batches."""

    def canonical(self, state: State, t: Tensor) -> State:
        """The variance-exploding view of a physical state."""
        return state

    def physical(self, state: State, t: Tensor) -> State:
        """Inverse of ``canonical``."""
        return state

    def velocity(self, state: State, t: Tensor, score: Tangent) -> Tangent:
        """Right-hand side of the probability-flow ODE, d state / dt = -1/2 (d sigma^2/dt) score."""
        diffusivity = self.diffusivity(state, t)
        return {name: -0.5 * diffusivity[name] * value for name, value in score.items()}


class DiscreteEncoder(nn.Module, ABC):
    """Reads the CLEAN sample and gives the distribution of its latents."""

    @abstractmethod
    def forward(self, batch: Any) -> LatentLogits: ...


class Denoiser(nn.Module, ABC):
    """Score network. ``latents`` is None in a model without latents."""

    @abstractmethod
    def forward(self, state: Any, level: Tensor, latents: Latents | None, batch: Any) -> Tangent:
        """Score per field of the canonical ``state`` at noise level ``level`` [B]."""


class PriorNet(nn.Module, ABC):
    """Autoregressive distribution of the codes. Slot m sees ``codes[:, :m]`` only."""

    @abstractmethod
    def forward(self, batch: Any, codes: Tensor) -> LatentLogits:
        """Logits of slots 0..J, given codes [B, J] with J < M; of all M slots given [B, M]."""


class Stage(nn.Module, ABC):
    """forward(batch, streams) -> {"loss": [B], further named [B] values for the log}."""

    name: ClassVar[str]

    @abstractmethod
    def forward(self, batch: Any, streams: SampleStreams) -> dict[str, Tensor]: ...

    @abstractmethod
    def parts(self) -> dict[str, nn.Module]:
        """What this stage trains, by the name it gets in the model folder."""

    def prepare(self, dataset: "Dataset", folder: Path, world: World) -> "Dataset":
        """What the stage trains on, made before its first step and again when it goes on: the domain's training data by
        default. folder: of the run, where it may keep what takes long to make, below ``state``; world: all processes
        call this."""
        return dataset

    def frozen(self, step: int) -> Iterable[nn.Parameter]:
        """Parameters that optimiser step number ``step`` leaves alone; none by default."""
        return ()

    def conclude(self) -> None:
        """Called on the averaged weights after the last step, in the main process, before they are saved, and again
        where a finished run is called again (docking: probabilities of sites and poses are calibrated on
        validation data); nothing by default."""


@runtime_checkable
class Dataset(Protocol):
    """Samples that can be loaded by number. ``content_hash`` names the data in the manifest of a model."""

    @property
    def content_hash(self) -> str: ...
    def __len__(self) -> int: ...
    def load(self, indices: Sequence[int] | np.ndarray, ids: Sequence[int] | np.ndarray) -> Any:
        """Batch of the samples at ``indices``; ``ids`` are the numbers of their random streams."""


@dataclass(frozen=True)
class Converted:
    """A foreign checkpoint as ours: configuration, networks by part, and what a user should know about them."""

    config: RunConfig
    networks: Mapping[str, nn.Module]
    notes: tuple[str, ...] = ()


class Domain(ABC):
    """Everything that the core needs to know about one kind of data."""

    name: ClassVar[str]
    Config: ClassVar[type[BaseModel]]
    pipeline: ClassVar[type[Any] | None] = None  # a Pipeline with more methods, where the domain has one

    def __init__(self, config: RunConfig) -> None:
        self.config = config

    def __deepcopy__(self, memo: Any) -> "Domain":
        """Itself: averages of the weights copy stages, and must not copy the data sets that a domain may keep."""
        return self

    @abstractmethod
    def dataset(self, split: str) -> Dataset:
        """``train`` or ``val``. Raises DataError where the data is missing or damaged."""

    @abstractmethod
    def geometry(self) -> Geometry[Any]: ...

    @abstractmethod
    def encoder(self) -> DiscreteEncoder:
        """Only called where the configuration has latents."""

    @abstractmethod
    def denoiser(self) -> Denoiser: ...

    @abstractmethod
    def prior(self) -> nn.Module:
        """A ``PriorNet``, or the continuous baseline's prior. Only called where the configuration has latents."""

    @abstractmethod
    def training_times(self, streams: SampleStreams) -> Tensor:
        """[B] times to train at, one per sample."""

    @abstractmethod
    def sampling_times(self, steps: int) -> Tensor:
        """[steps + 1] decreasing times in float64, the last one noise-free."""

    @abstractmethod
    def request(self, ids: Sequence[int], **spec: Any) -> Samples:
        """What to generate: sample numbers and, where the domain has them, conditions.

        Raises RequestError for a condition that the model does not know.
        """

    @abstractmethod
    def evaluate(self, samples: Any, batch: Any) -> dict[str, float]:
        """Named figures of merit of generated samples (a clean state) against real data."""

    @abstractmethod
    def write(self, result: Any, out: Path) -> list[Path]:
        """Write a ``Generated`` in the domain's usual formats; returns the files."""

    def file_of(self, out: Path, number: int) -> Path | None:
        """The file that ``write`` makes of one sample, where it makes one per sample and can be called for parts of
        them; None, the default, where it writes all samples together."""
        return None

    def overview(self, out: Path, ids: Sequence[int]) -> list[Path]:
        """Pictures of the samples of these numbers that ``write`` left in a folder; none by default."""
        return []

    def same_process(self, other: "Domain") -> bool:
        """Whether a model of ``other`` can go on where a model of this leaves off: samples of the same shape, under the
        same conditions, on the same noise path."""
        return self.name == other.name

    def finish(self, samples: Any, batch: Any) -> Any:
        """What is handed out of the samples that a reverse process ended in (docking: relaxed poses); the same by
        default."""
        return samples

    def scores(self, networks: Mapping[str, nn.Module], samples: Any, batch: Any) -> Mapping[str, Tensor]:
        """[B] figures that the model itself gives to its samples (docking: confidence); none by default."""
        return {}

    def initial_prior(self, trained: Mapping[str, nn.Module]) -> nn.Module:
        """An untrained prior, with whatever it takes over from the trained denoiser or encoder; nothing by default."""
        return self.prior()

    def frozen_prior(self, prior: nn.Module, step: int) -> Iterable[nn.Parameter]:
        """Parameters of the prior that its optimiser step number ``step`` leaves alone; none by default."""
        return ()

    @classmethod
    def samplers(cls) -> Mapping[str, tuple[str, Mapping[str, Any]]]:
        """Settings with a name of their own in this domain, as (sampler of the core, options); none by default."""
        return {}

    @classmethod
    def convert(cls, source: Path) -> "Converted | None":
        """A foreign checkpoint as networks of this domain; None where the files are of no kind that it knows.

        Raises CheckpointError for files that are of a known kind but damaged or incomplete. Must not execute anything
        that the files hold.
        """
        return None

    def evaluation(
        self, pipeline: Any, request: Any, out: Path, count: int | None
    ) -> dict[str, dict[str, float]] | None:
        """Rows of figures of merit where the domain has a protocol of its own (docking: many poses of every complex of
        a test set); None, the default, for the core's. count: samples in all that the user wants, None if any number
        will do."""
        return None

    def parts(self) -> dict[str, Callable[[], nn.Module]]:
        """Builders of the untrained networks by the name of their part of a model; domain stages add theirs."""
        if self.config.latents.kind == "none":
            return {"denoiser": self.denoiser}
        return {"denoiser": self.denoiser, "encoder": self.encoder, "prior": self.prior}

    @property
    def class_drop(self) -> float:
        """Share of training samples whose class is dropped; 0 in domains without classes."""
        return 0.0

    @property
    def null_label(self) -> int | None:
        """Class number that stands for "dropped"; None where the model was never trained to do without."""
        return None

    def figures(self, pipeline: Any, out: Path) -> list[Path]:
        """Pictures worth looking at for this domain (``disco diagnose`` draws them); none by default."""
        return []

    def stages(self) -> dict[str, Callable[[nn.ModuleDict], Stage]]:
        """Further training stages by name (docking: confidence); none by default."""
        return {}


def expand(value: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, ..., 1], to broadcast against ``like`` [B, ...]."""
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim))


def scalar_times(t: Tensor, size: int) -> Tensor:
    """One time as the [B] tensor that geometries and networks take."""
    return torch.as_tensor(t).reshape(1).expand(size)
