"""Values that travel between the parts: frozen, with named fields, never mutated."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

State = TypeVar("State")
Tangent = Mapping[str, Tensor]  # one tensor per noised field: {"x"} for images and points
FlatState = Mapping[str, Tensor]


@dataclass(frozen=True)
class LatentLogits:
    """What an encoder or a prior says about M latents with at most K categories each.

    values: [B, M, K] logits; mask: [B, K], True where the category exists (None: all exist). Ragged codebooks
    (docking: the nodes of each complex) are padded to the largest K of the batch.
    """

    values: Float[Tensor, "b m k"]
    mask: Bool[Tensor, "b k"] | None = None

    @property
    def masked(self) -> Float[Tensor, "b m k"]:
        """Logits with -inf where there is no category."""
        if self.mask is None:
            return self.values
        return self.values.masked_fill(~self.mask[:, None, :], -torch.inf)


@dataclass(frozen=True)
class Latents:
    """Latents as the denoiser gets them.

    values: [B, M, K], one-hot rows (discrete) or Gaussian vectors (continuous baseline);
    keep: [B], False where the whole latent vector was dropped and the network must use its null embedding.
    """

    values: Float[Tensor, "b m k"]
    keep: Bool[Tensor, " b"]

    @property
    def codes(self) -> Int[Tensor, "b m"]:
        """Category numbers of discrete latents."""
        return self.values.argmax(-1)

    def dropped(self) -> "Latents":
        """The same latents, all marked as dropped (the unconditional branch of guidance)."""
        return replace(self, keep=torch.zeros_like(self.keep))

    def to(self, *args: Any, **kwargs: Any) -> "Latents":
        """As ``Tensor.to``; dtype applies to ``values`` only."""
        values = self.values.to(*args, **kwargs)
        return replace(self, values=values, keep=self.keep.to(values.device))

    def select(self, index: Tensor | slice) -> "Latents":
        """The latents of the samples at ``index``."""
        return Latents(self.values[index], self.keep[index])

    @staticmethod
    def concatenate(parts: list["Latents"]) -> "Latents":
        """Latents of several batches, one after the other, padded to the largest codebook."""
        width = max(part.values.shape[2] for part in parts)
        return Latents(torch.cat([padded(p.values, width) for p in parts]), torch.cat([p.keep for p in parts]))


def padded(values: Float[Tensor, "b m k"], width: int) -> Float[Tensor, "b m w"]:
    """Values per category with zeros behind, up to ``width`` categories."""
    return values if values.shape[2] == width else functional.pad(values, (0, width - values.shape[2]))


@dataclass(frozen=True)
class Corrupted(Generic[State]):
    """A noisy state with what the denoiser should answer: the score of the corruption per field, and loss weights."""

    state: State
    target: Tangent
    weight: Tangent


@runtime_checkable
class Samples(Protocol):
    """What the core needs of any batch: numbers of the random streams [B], class numbers [B] or None, how many samples
    there are, and parts of it. Domains whose data are no tensors of one shape (docking) have a class of their own."""

    @property
    def ids(self) -> Tensor: ...
    @property
    def label(self) -> Tensor | None: ...
    @property
    def size(self) -> int: ...
    def to(self, device: torch.device | str) -> "Samples": ...
    def select(self, index: Tensor | slice) -> "Samples": ...


@dataclass(frozen=True)
class Batch:
    """Clean data and conditions of B samples on flat spaces.

    ids: [B] sample numbers (seeds of the streams); fields: clean data per noised field, None in a generation request;
    label: [B] class numbers, None without classes; the number ``n_classes`` itself means "class dropped";
    vector: [B, C] any other condition.
    """

    ids: Int[Tensor, " b"]
    fields: Mapping[str, Tensor] | None = None
    label: Int[Tensor, " b"] | None = None
    vector: Float[Tensor, "b c"] | None = None

    @property
    def size(self) -> int:
        return len(self.ids)

    @property
    def clean(self) -> Mapping[str, Tensor]:
        """Clean fields; raises ValueError in a generation request, which has none."""
        if self.fields is None:
            raise ValueError("this batch is a generation request: it carries no clean data")
        return self.fields

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        def optional(value: Tensor | None) -> Tensor | None:
            return None if value is None else change(value)

        fields = None if self.fields is None else {k: change(v) for k, v in self.fields.items()}
        return replace(
            self, ids=change(self.ids), fields=fields, label=optional(self.label), vector=optional(self.vector)
        )

    def to(self, device: torch.device | str) -> "Batch":
        """On a device. A copy from pinned memory to a GPU is only begun here: what the GPU does next waits for it."""
        # From a GPU the copy must be waited for: the CPU would read what has not arrived.
        begun = torch.device(device).type == "cuda"
        return self._map(lambda value: value.to(device, non_blocking=begun))

    def pin_memory(self) -> "Batch":
        """In page-locked memory, which a GPU reads by itself; DataLoader calls this. Needs CUDA."""
        return self._map(lambda value: value.pin_memory())

    def select(self, index: Tensor | slice) -> "Batch":
        """The samples at ``index``, in that order (repeats allowed)."""
        return self._map(lambda value: value[index])

    def with_label(self, label: Tensor | None) -> "Batch":
        """The same samples under other classes."""
        return replace(self, label=label)
