"""Latents as tokens for cross-attention, all together or in groups by resolution (DisCo-Diff 3.3)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.errors import ConfigError
from core.transformer import LatentEmbedding
from core.types import Latents


@dataclass(frozen=True)
class LatentSettings:
    """How ``count`` latents of ``codes`` categories (or dimensions) enter a network.

    width, depth, heads: of the Transformer encoder over the codes (appendix D.1: six layers of width 192);
    null_token: one learned token more, to which attention can turn away from the latents (section 4.1);
    groups: resolutions, the lowest first, at which equal parts of the latents enter the decoder, and nowhere else
    (group-hierarchical model, section 3.3); none: all latents enter at every self-attention;
    zero_init: the network starts as the one without latents.
    """

    count: int
    codes: int
    width: int = 192
    depth: int = 6
    heads: int = 6
    null_token: bool = False
    groups: tuple[int, ...] = ()
    zero_init: bool = True

    def __post_init__(self) -> None:
        if self.groups and self.count % len(self.groups):
            raise ConfigError(f"groups: {self.count} latents cannot be split evenly into {len(self.groups)} groups")
        if list(self.groups) != sorted(set(self.groups)):
            raise ConfigError(f"groups: resolutions must increase, and {self.groups} do not")

    def group_at(self, resolution: int, decoder: bool) -> int | None:
        """Which group's tokens the attention at a resolution sees; None where it sees no latents."""
        if not self.groups:
            return 0
        return self.groups.index(resolution) if decoder and resolution in self.groups else None


class LatentTokens(nn.Module):
    """Latents [B, M, K] -> tokens [B, L, width] per group; L = M / groups, and one more with a null token."""

    def __init__(self, settings: LatentSettings) -> None:
        super().__init__()
        s, parts = settings, max(1, len(settings.groups))
        self.embeddings = nn.ModuleList(
            LatentEmbedding(s.count // parts, s.codes, s.width, s.depth, s.heads) for _ in range(parts)
        )
        # Keys and values have no bias: a null token of zero says nothing at all, which is what it is there for.
        self.null = nn.Parameter(torch.zeros(parts, s.width)) if s.null_token else None

    def forward(self, latents: Latents, dtype: torch.dtype) -> list[Float[Tensor, "b l w"]]:
        """dtype: of the network."""
        values = latents.values.to(dtype).chunk(len(self.embeddings), dim=1)
        tokens = [embed(part, latents.keep) for embed, part in zip(self.embeddings, values, strict=True)]
        if self.null is None:
            return tokens
        size = len(latents.keep)
        return [torch.cat([t, n.expand(size, 1, -1)], dim=1) for t, n in zip(tokens, self.null, strict=True)]
