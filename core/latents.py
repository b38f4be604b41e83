"""Discrete latents: sampling from the encoder, dropping, code usage; and the space that ties them to their prior."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from core.gumbel import EXTRACTION_TEMPERATURE, TRAINING_TEMPERATURE, gumbel_softmax
from core.prior import PriorOptions, negative_log_likelihood, sample_codes
from core.rng import SampleStreams
from core.types import LatentLogits, Latents


class LatentSpace(ABC):
    """A kind of latent: how it is sampled from the encoder, what it costs, and how its prior is trained and used.

    count: M latents; width: numbers per latent that the denoiser gets; encoder_width: numbers per latent that the
    encoder must give; discrete: whether latents are categories.
    """

    discrete: ClassVar[bool]
    count: int
    width: int
    encoder_width: int

    def codebooks(self, batch: Any) -> Int[Tensor, " b"]:
        """[B] numbers per latent: ``width``, but for latents whose codebook is each sample's own."""
        return torch.full((batch.size,), self.width, device=batch.ids.device)

    def codebook(self, batch: Any) -> int:
        """Numbers per latent in a batch, where smaller codebooks are padded."""
        return int(self.codebooks(batch).max())

    @abstractmethod
    def encode(self, encoding: LatentLogits, streams: SampleStreams) -> Float[Tensor, "b m k"]:
        """Differentiable sample, for training the denoiser and the encoder."""

    @abstractmethod
    def extract(self, encoding: LatentLogits, streams: SampleStreams) -> Float[Tensor, "b m k"]:
        """Sample for the second stage and for oracle latents."""

    @abstractmethod
    def penalty(self, encoding: LatentLogits) -> Float[Tensor, " b"]:
        """Regularisation per sample that is added to the denoising loss."""

    @abstractmethod
    def prior_loss(
        self, prior: nn.Module, batch: Any, values: Float[Tensor, "b m k"], streams: SampleStreams
    ) -> Float[Tensor, " b"]:
        """Loss of the second stage per sample."""

    @abstractmethod
    def sample(
        self, prior: nn.Module, batch: Any, streams: SampleStreams, options: PriorOptions
    ) -> Float[Tensor, "b m k"]:
        """Latents from the trained prior."""


@dataclass(frozen=True)
class CategoricalSpace(LatentSpace):
    """M categorical latents with K codes each (DisCo-Diff). No regulariser: the denoising loss is all there is."""

    discrete: ClassVar[bool] = True
    count: int
    codes: int
    temperature: float = TRAINING_TEMPERATURE
    extraction_temperature: float = EXTRACTION_TEMPERATURE

    @property
    def width(self) -> int:  # type: ignore[override]
        return self.codes

    @property
    def encoder_width(self) -> int:  # type: ignore[override]
        return self.codes

    def encode(self, encoding: LatentLogits, streams: SampleStreams) -> Tensor:
        return gumbel_softmax(encoding, streams, self.temperature)

    def extract(self, encoding: LatentLogits, streams: SampleStreams) -> Tensor:
        return gumbel_softmax(encoding, streams, self.extraction_temperature)

    def penalty(self, encoding: LatentLogits) -> Tensor:
        return encoding.values.new_zeros(len(encoding.values))

    def prior_loss(self, prior: nn.Module, batch: Any, values: Tensor, streams: SampleStreams) -> Tensor:
        return negative_log_likelihood(prior, batch, values.argmax(-1))

    def sample(self, prior: nn.Module, batch: Any, streams: SampleStreams, options: PriorOptions) -> Tensor:
        codes = sample_codes(prior, batch, self.count, streams, options)
        return functional.one_hot(codes, self.codebook(batch)).float()


@dataclass(frozen=True)
class PointerSpace(CategoricalSpace):
    """M latents that each name one node of the sample. Batches say by ``categories`` [B] how many nodes their samples
    have; ``codes`` and ``width`` mean nothing here."""

    codes: int = 0

    def codebooks(self, batch: Any) -> Int[Tensor, " b"]:
        sizes: Tensor = batch.categories
        return sizes


def drop_latents(values: Float[Tensor, "b m k"], probability: float, streams: SampleStreams) -> Latents:
    """Drop the whole latent vector of a sample with the given probability (DisCo-Diff appendix B: 0.1)."""
    keep = streams.uniform(1)[:, 0].to(values.device) >= probability
    return Latents(values, keep)


def keep_all(values: Float[Tensor, "b m k"]) -> Latents:
    """Latents of which none is dropped."""
    return Latents(values, torch.ones(len(values), dtype=torch.bool, device=values.device))


def from_codes(codes: Int[Tensor, "b m"], width: int) -> Latents:
    """Latents with the given category numbers."""
    return keep_all(functional.one_hot(codes, width).float())


@dataclass(frozen=True)
class CodeUsage:
    """How often each code of each latent is used.

    frequency: [M, K]; entropy: [M] nats; perplexity: [M], the effective number of codes, exp(entropy).
    """

    frequency: Float[Tensor, "m k"]

    @property
    def entropy(self) -> Float[Tensor, " m"]:
        return torch.special.entr(self.frequency).sum(-1)

    @property
    def perplexity(self) -> Float[Tensor, " m"]:
        return self.entropy.exp()


def code_usage(codes: Int[Tensor, "b m"], width: int) -> CodeUsage:
    """Usage of ``width`` codes over a set of samples."""
    return CodeUsage(functional.one_hot(codes, width).double().mean(0))
