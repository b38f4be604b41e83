"""The nearest K sources of every receiver, as dense tables: messages become batched products without a scatter."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from domains.docking.networks.pairs import pad_nodes, starts

Slot = tuple[Tensor, Tensor]  # complex of every node, and its number within it


@dataclass(frozen=True)
class Nearest:
    """Up to K sources of each of D receivers.

    index: [D, K] source numbers; real: [D, K] False where a receiver has fewer (its index is then some other source);
    vector: [D, K, 3] from receiver to source, Angstrom; radius: Angstrom, where messages fade out.
    """

    index: Int[Tensor, "d k"]
    real: Bool[Tensor, "d k"]
    vector: Float[Tensor, "d k 3"]
    radius: float

    @cached_property
    def distance(self) -> Float[Tensor, "d k"]:
        return self.vector.square().sum(-1).add(1e-6).sqrt()

    @cached_property
    def direction(self) -> Float[Tensor, "d k 3"]:
        """Unit vectors."""
        return self.vector / self.distance[..., None]

    @cached_property
    def sums(self) -> Float[Tensor, "d 4 k"]:
        """What messages are multiplied with to be added up: 1 and the direction, faded out smoothly at the radius."""
        fade = 0.5 * (1 + torch.cos(torch.pi * (self.distance / self.radius).clamp_max(1))) * self.real
        return functional.pad(self.direction, (1, 0), value=1.0).mul(fade[..., None]).transpose(1, 2)


def nearest(
    receivers: Float[Tensor, "d 3"], receiver_slot: Slot, sources: Float[Tensor, "s 3"], source_slot: Slot, size: int,
    count: int, radius: float, loops: bool = True,
) -> Nearest:  # fmt: skip
    """The ``count`` nearest sources of the same complex within ``radius`` Angstrom of every receiver.

    loops: whether a node may be its own source (False for a set with itself); complexes come in ascending order.
    """
    a, a_real = pad_nodes(receivers, receiver_slot, size)
    b, b_real = pad_nodes(sources, source_slot, size)
    distance = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    distance = distance.masked_fill(~b_real[:, None], torch.inf)
    if not loops:
        distance.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    found, index = distance.topk(min(count, distance.shape[2]), dim=2, largest=False, sorted=False)
    first = starts(source_slot[0], size)[receiver_slot[0]]
    chosen, real = index[a_real], found[a_real] <= radius
    chosen = (chosen + first[:, None]).where(real, 0)
    return Nearest(chosen, real, sources[chosen] - receivers[:, None], radius)
