"""A U-Net denoiser in the manner of ADM (Dhariwal & Nichol 2021), with cross-attention to discrete latents."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from core.transformer import LatentEmbedding, fourier_features
from core.types import Batch, Latents
from domains.images.blocks import AttentionBlock, ResidualBlock, group_norm, zeroed


@dataclass(frozen=True)
class UNetShape:
    """Sizes of a U-Net. multipliers: channels per resolution, halving from one to the next; attention: resolutions
    (in pixels) that get attention blocks; classes: 0 = unconditional."""

    resolution: int
    image_channels: int
    channels: int
    multipliers: Sequence[int]
    blocks: int
    attention: Sequence[int]
    head_channels: int
    dropout: float
    classes: int


class Level(nn.Module):
    """A residual block, with an attention block where the resolution has one."""

    def __init__(self, residual: ResidualBlock, attention: AttentionBlock | None) -> None:
        super().__init__()
        self.residual, self.attention = residual, attention

    def forward(self, x: Tensor, embedding: Tensor, tokens: Tensor | None) -> Tensor:
        x = self.residual(x, embedding)
        return x if self.attention is None else self.attention(x, tokens)


class UNet(nn.Module):
    """Raw network F(x, c_noise, latents, batch) for ``core.precondition``.

    latents: an embedding of the latents into tokens, None for the plain model of the same size; zero_init: the
    cross-attention starts as nothing (for adding latents to a trained model).
    """

    def __init__(self, shape: UNetShape, latents: LatentEmbedding | None, zero_init: bool = True) -> None:
        super().__init__()
        width, context = 4 * shape.channels, latents.table.shape[-1] if latents else 0
        self.latents, self.frequencies = latents, shape.channels
        self.noise = nn.Sequential(nn.Linear(shape.channels, width), nn.SiLU(), nn.Linear(width, width))
        # One row more than classes: the last stands for "class dropped".
        self.label = nn.Embedding(shape.classes + 1, width) if shape.classes else None

        def level(into: int, out: int, resolution: int) -> Level:
            with_attention = resolution in shape.attention
            attention = AttentionBlock(out, shape.head_channels, context, zero_init) if with_attention else None
            return Level(ResidualBlock(into, out, width, shape.dropout), attention)

        widths = [shape.channels * m for m in shape.multipliers]
        sizes = [shape.resolution >> i for i in range(len(widths))]
        self.into = nn.Conv2d(shape.image_channels, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        current, skips = widths[0], [widths[0]]
        for index, (channels, size) in enumerate(zip(widths, sizes, strict=True)):
            for _ in range(shape.blocks):
                self.down.append(level(current, channels, size))
                skips.append(channels)
                current = channels
            if index < len(widths) - 1:
                self.down.append(nn.Conv2d(current, current, 3, stride=2, padding=1))
                skips.append(current)
        self.middle = level(current, current, sizes[-1])
        for index in reversed(range(len(widths))):
            for _ in range(shape.blocks + 1):
                self.up.append(level(current + skips.pop(), widths[index], sizes[index]))
                current = widths[index]
            if index:
                self.up.append(nn.Conv2d(current, current, 3, padding=1))
        self.norm, self.out = group_norm(current), zeroed(nn.Conv2d(current, shape.image_channels, 3, padding=1))

    def forward(
        self, x: Float[Tensor, "b c h w"], noise: Float[Tensor, " b"], latents: Latents | None, batch: Batch
    ) -> Float[Tensor, "b c h w"]:
        embedding = self.noise(fourier_features(noise, self.frequencies))
        if self.label is not None:
            embedding = embedding + self.label(batch.label)
        embedding = functional.silu(embedding)
        tokens = None
        if self.latents is not None and latents is not None:
            tokens = self.latents(latents.values.to(x.dtype), latents.keep)
        x = self.into(x.contiguous(memory_format=torch.channels_last))
        skips = [x]
        for module in self.down:
            x = module(x) if isinstance(module, nn.Conv2d) else module(x, embedding, tokens)
            skips.append(x)
        x = self.middle(x, embedding, tokens)
        for module in self.up:
            if isinstance(module, nn.Conv2d):
                x = module(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
            else:
                x = module(torch.cat([x, skips.pop()], dim=1), embedding, tokens)
        out: Tensor = self.out(functional.silu(self.norm(x)))
        return out
