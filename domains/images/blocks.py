"""Building blocks of the U-Net: residual block, attention over pixels with cross-attention to the latents."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from core.transformer import Attention


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with at most 32 groups of at least 4 channels."""
    groups = min(32, max(channels // 4, 1))
    while channels % groups:
        groups -= 1
    return nn.GroupNorm(groups, channels)


def zeroed(module: nn.Module) -> nn.Module:
    """The module with all parameters zero, so that the residual branch it ends starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class ResidualBlock(nn.Module):
    """ADM residual block: norm, SiLU, conv, norm scaled and shifted by the embedding, SiLU, dropout, conv."""

    def __init__(self, into: int, out: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(into), nn.Conv2d(into, out, 3, padding=1)
        self.affine = nn.Linear(embedding, 2 * out)
        self.norm2, self.conv2 = group_norm(out), zeroed(nn.Conv2d(out, out, 3, padding=1))
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Conv2d(into, out, 1) if into != out else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"]) -> Float[Tensor, "b d h w"]:
        hidden = self.conv1(functional.silu(self.norm1(x)))
        scale, shift = self.affine(embedding)[:, :, None, None].chunk(2, dim=1)
        hidden = functional.silu(torch.addcmul(shift, self.norm2(hidden), scale + 1))
        out: Tensor = self.skip(x) + self.conv2(self.dropout(hidden))
        return out


class AttentionBlock(nn.Module):
    """Self-attention over pixels, then cross-attention to the latent tokens (DisCo-Diff appendix D.1: after every
    self-attention; pixels are the queries). Both are residual with normalised input."""

    def __init__(self, channels: int, head_channels: int, context: int = 0, zero_init: bool = True) -> None:
        super().__init__()
        heads = max(1, channels // head_channels)
        self.self_norm, self.self_attention = group_norm(channels), Attention(channels, heads, zero_init=True)
        self.cross_norm = group_norm(channels) if context else None
        self.cross_attention = Attention(channels, heads, context, zero_init) if context else None

    def forward(self, x: Float[Tensor, "b c h w"], tokens: Tensor | None) -> Float[Tensor, "b c h w"]:
        """tokens: [B, M, context], None in a model without latents."""
        normed = _to_tokens(self.self_norm(x))
        x = x + _to_image(self.self_attention(normed, normed), x)
        if self.cross_attention is not None and self.cross_norm is not None:
            x = x + _to_image(self.cross_attention(_to_tokens(self.cross_norm(x)), tokens), x)
        return x


def _to_tokens(image: Tensor) -> Tensor:
    return image.flatten(2).transpose(1, 2)


def _to_image(tokens: Tensor, like: Tensor) -> Tensor:
    return tokens.transpose(1, 2).reshape(like.shape)
