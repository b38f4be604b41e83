"""Layers of EDM's image U-Nets (Karras et al. 2022, tables 1 and 7; Song et al. 2021; Dhariwal & Nichol 2021).

Parameter names are those of EDM's checkpoints, so that published weights load by name. Feature maps are kept
channels-last on the CPU, where that is the faster layout; every layer takes either.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from core.errors import ConfigError
from domains.images.networks.attention import LatentAttention, pixel_attention
from domains.images.networks.tokens import LatentSettings

Direction = Literal["up", "down"]
LATENT_HEAD_CHANNELS = 64  # per head of cross-attention, as in ADM's self-attention


class GroupNorm(nn.GroupNorm):
    """In float32 where products are in a lower precision, as CUDA's autocast has it: on a CPU that is faster too."""

    def forward(self, x: Float[Tensor, "b c *n"]) -> Float[Tensor, "b c *n"]:
        return super().forward(x.to(self.weight.dtype))


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """GroupNorm with 32 groups, fewer where a group would have less than 4 channels.

    Raises ConfigError where the channels cannot be split so.
    """
    groups = min(32, channels // 4)
    if not groups or channels % groups:
        raise ConfigError(f"{channels} channels cannot be normalised in {groups} equal groups: take a multiple of 32")
    return GroupNorm(groups, channels, eps)


def zero(layer: nn.Module) -> None:
    """Zero all parameters, so that the branch which the layer ends starts as nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def latent_attention(channels: int, eps: float, group: int, latents: LatentSettings) -> LatentAttention:
    """Cross-attention of feature maps to a group of latents; one head where 64 channels per head do not fit."""
    heads = max(1, channels // LATENT_HEAD_CHANNELS)
    heads = heads if channels % heads == 0 else 1
    return LatentAttention(group_norm(channels, eps), heads, latents.width, group, latents.zero_init)


def activated(x: Tensor) -> Tensor:
    """SiLU, in the memory of its input where no gradient needs that. ``x`` must be used nowhere else."""
    return functional.silu(x, inplace=not x.requires_grad)


class PositionalEmbedding(nn.Module):
    """[B] -> [B, width]: cosines, then sines, at angular frequencies from 1 down to 1/10000 (``endpoint``: reached)."""

    def __init__(self, width: int, endpoint: bool) -> None:
        super().__init__()
        self.width, self.endpoint = width, endpoint

    def forward(self, values: Float[Tensor, " b"]) -> Float[Tensor, "b w"]:
        half = self.width // 2
        # Single precision at any precision of the values: weights are trained with these very frequencies.
        place = torch.arange(half, dtype=torch.float32, device=values.device) / (half - int(self.endpoint))
        angles = torch.outer(values, ((1 / 10000) ** place).to(values.dtype))
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class FourierEmbedding(nn.Module):
    """[B] -> [B, width]: cosines, then sines, at fixed random frequencies of standard deviation 16."""

    freqs: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 16 * torch.randn(width // 2))

    def forward(self, values: Float[Tensor, " b"]) -> Float[Tensor, "b w"]:
        angles = torch.outer(values, (2 * math.pi * self.freqs).to(values.dtype))
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class Resample(nn.Module):
    """Twice or half the resolution with a separable filter of an even number of taps.

    Zeros lie beyond the border. The filter (1, 1) is nearest-neighbour and average pooling.
    """

    kernel: Tensor

    def __init__(self, direction: Direction, taps: Sequence[int] = (1, 1)) -> None:
        super().__init__()
        if len(taps) % 2 or not sum(taps):
            raise ConfigError(f"resample_filter {tuple(taps)} needs an even number of taps that do not add up to 0")
        self.direction, self.box = direction, len(taps) == 2 and taps[0] == taps[1]
        self.margin = len(taps) // 2 - 1
        line = torch.tensor(taps, dtype=torch.float32)
        kernel = torch.outer(line, line)[None, None] / line.sum().square()
        # Twice the resolution means four times the pixels that one pixel's brightness is spread over.
        self.register_buffer("kernel", kernel * 4 if direction == "up" else kernel, persistent=False)

    def forward(self, x: Float[Tensor, "b c h w"], padded: bool = False) -> Float[Tensor, "b c i j"]:
        """padded: the input already has ``margin`` pixels beyond every border (down-sampling only)."""
        if self.box:
            return (
                functional.interpolate(x, scale_factor=2.0) if self.direction == "up" else functional.avg_pool2d(x, 2)
            )
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, -1, -1, -1)
        if self.direction == "up":
            return functional.conv_transpose2d(x, kernel, stride=2, padding=self.margin, groups=channels)
        return functional.conv2d(x, kernel, stride=2, padding=0 if padded else self.margin, groups=channels)


class Conv(nn.Conv2d):
    """Convolution that keeps the resolution, with resampling before it. ``after``: half the resolution after it
    instead, with the padding of both at its input."""

    def __init__(
        self, into: int, out: int, size: int = 3, resample: Resample | None = None, after: bool = False
    ) -> None:
        super().__init__(into, out, size, padding=size // 2 + (resample.margin if resample and after else 0))
        self.resample, self.after = resample, after

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        if self.resample is None:
            return super().forward(x)
        if not self.after and (self.resample.direction == "down" or self.kernel_size[0] > 1):
            return super().forward(self.resample(x))
        # A 1x1 convolution and a filter per channel commute, and there are fewer pixels before up-sampling. The bias
        # comes last, as the filter's border is dark.
        out: Tensor = self.resample(self._conv_forward(x, self.weight, None), padded=self.after)
        return out if self.bias is None else out.add_(self.bias[:, None, None])


@dataclass(frozen=True)
class BlockSettings:
    """What all blocks of a network share.

    embedding: width of the conditioning; adaptive: it scales and shifts (else it is added before the second norm);
    head_channels: of self-attention, None = one head; fewer channels than that mean no attention (as in EDM);
    residual_scale: of what every residual sum is multiplied with; project: resampled shortcuts have a 1x1 convolution.
    """

    embedding: int
    dropout: float
    adaptive: bool
    head_channels: int | None
    residual_scale: float
    eps: float
    taps: tuple[int, ...]
    project: bool

    def heads(self, channels: int) -> int:
        """Heads of self-attention. Raises ConfigError where the channels cannot be split so."""
        if self.head_channels is None:
            return 1
        heads = channels // self.head_channels
        if heads and channels % heads:
            raise ConfigError(f"{channels} channels cannot be split into {heads} attention heads")
        return heads


class Block(nn.Module):
    """Residual block; then self-attention over the pixels; then cross-attention to the latents, if it has them.

    norm, SiLU, conv0, conditioning with norm, SiLU, dropout, conv1. ``context``: width of the latent tokens, 0 = none;
    ``group``: which tokens of the network's it attends to.
    """

    def __init__(
        self, into: int, out: int, settings: BlockSettings, direction: Direction | None = None, attention: bool = False
    ) -> None:
        super().__init__()
        s = settings

        def resample() -> Resample | None:
            return Resample(direction, s.taps) if direction else None

        self.adaptive, self.scale = s.adaptive, s.residual_scale
        self.norm0 = group_norm(into, s.eps)
        self.conv0 = Conv(into, out, 3, resample())
        self.affine = nn.Linear(s.embedding, 2 * out if s.adaptive else out)
        self.norm1 = group_norm(out, s.eps)
        self.dropout = nn.Dropout(s.dropout)
        self.conv1 = Conv(out, out)
        projected = into != out or (direction is not None and s.project)
        self.skip: nn.Module | None = Conv(into, out, 1, resample()) if projected else resample()
        self.heads = s.heads(out) if attention else 0
        if self.heads:
            self.norm2 = group_norm(out, s.eps)
            self.qkv, self.proj = Conv(out, 3 * out, 1), Conv(out, out, 1)
        self.latents: LatentAttention | None = None

    def forward(
        self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"], tokens: Sequence[Tensor]
    ) -> Float[Tensor, "b d i j"]:
        """embedding: of the conditions, after its last SiLU; tokens: [B, L, context] per group of latents."""
        hidden = self.conv0(activated(self.norm0(x)))
        condition = self.affine(embedding)[:, :, None, None]
        if self.adaptive:
            scale, shift = condition.chunk(2, dim=1)
            hidden = torch.addcmul(shift, self.norm1(hidden), scale + 1)
        else:
            hidden = self.norm1(hidden.add_(condition))
        hidden = self.conv1(self.dropout(activated(hidden)))
        x = self._residual(hidden, x if self.skip is None else self.skip(x))
        if self.heads:
            x = self._residual(pixel_attention(self.norm2(x), self.qkv, self.proj, self.heads), x)
        return x if self.latents is None else self.latents(x, tokens)

    def _residual(self, branch: Tensor, trunk: Tensor) -> Tensor:
        """In the branch's memory: no gradient needs the output of a convolution."""
        total = branch.add_(trunk)
        return total if self.scale == 1 else total.mul_(self.scale)
