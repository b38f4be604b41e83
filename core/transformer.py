"""Parts that several networks share: a pre-norm Transformer on scaled_dot_product_attention, embeddings of latents,
conditions and noise levels."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional


def fourier_features(values: Tensor, width: int, lowest: float = 0.25, highest: float = 64.0) -> Tensor:
    """[B] -> [B, width]: cosines and sines at geometrically spaced angular frequencies."""
    half = width // 2
    steps = torch.arange(half, device=values.device, dtype=values.dtype) / max(half - 1, 1)
    angles = values[:, None] * (lowest * (highest / lowest) ** steps)
    return functional.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, width - 2 * half))


class Attention(nn.Module):
    """Multi-head attention of ``queries`` [B, N, W] over ``context`` [B, L, C] (self-attention: the same tensor).

    ``zero_init`` makes the output projection zero, so that adding the module to a trained network changes nothing.
    """

    def __init__(self, width: int, heads: int, context_width: int | None = None, zero_init: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not divisible by {heads} heads")
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(context_width or width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)
        if zero_init:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(
        self, queries: Float[Tensor, "b n w"], context: Float[Tensor, "b l c"], causal: bool = False
    ) -> Float[Tensor, "b n w"]:
        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        key, value = self.key_value(context).chunk(2, dim=-1)
        mixed = functional.scaled_dot_product_attention(
            heads(self.query(queries)), heads(key), heads(value), is_causal=causal
        )
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """x + attention(norm x), then x + mlp(norm x)."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, mlp_ratio * width), nn.GELU(), nn.Linear(mlp_ratio * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b n w"], causal: bool) -> Float[Tensor, "b n w"]:
        normed = self.attention_norm(x)
        x = x + self.dropout(self.attention(normed, normed, causal))
        out: Tensor = x + self.dropout(self.mlp(self.mlp_norm(x)))
        return out


class Transformer(nn.Module):
    """``depth`` blocks and a last norm on token sequences [B, N, width]; ``causal``: token n sees tokens 0..n."""

    def __init__(self, width: int, depth: int, heads: int, dropout: float = 0.0, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Float[Tensor, "b n w"]) -> Float[Tensor, "b n w"]:
        for block in self.blocks:
            tokens = block(tokens, self.causal)
        out: Tensor = self.norm(tokens)
        return out


class LatentEmbedding(nn.Module):
    """Latents [B, M, K] -> M tokens for cross-attention (DisCo-Diff appendix D.1: six layers of width 192).

    Every latent has its own code table. A dropped latent vector is replaced by learned null tokens.
    """

    def __init__(self, count: int, codes: int, width: int = 192, depth: int = 6, heads: int = 6) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(count, codes, width))
        self.null = nn.Parameter(torch.randn(count, width))
        self.position = nn.Parameter(torch.zeros(count, width))
        self.transformer = Transformer(width, depth, heads)

    def forward(self, values: Float[Tensor, "b m k"], keep: Bool[Tensor, " b"]) -> Float[Tensor, "b m w"]:
        embedded = torch.einsum("bmk,mkw->bmw", values, self.table)
        tokens = torch.where(keep[:, None, None], embedded, self.null) + self.position
        out: Tensor = self.transformer(tokens)
        return out


class Condition(nn.Module):
    """Class number and/or vector of a batch -> [B, width]. Class number ``classes`` stands for "dropped"."""

    def __init__(self, width: int, classes: int = 0, vector: int = 0) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(width) * 0.02)
        self.label = nn.Embedding(classes + 1, width) if classes else None
        self.vector = nn.Linear(vector, width) if vector else None

    def forward(self, size: int, label: Tensor | None, vector: Tensor | None) -> Float[Tensor, "b w"]:
        out = self.start.expand(size, -1)
        if self.label is not None:
            out = out + self.label(_required(label, "a class label"))
        if self.vector is not None:
            out = out + self.vector(_required(vector, "a condition vector"))
        return out


def _required(value: Tensor | None, what: str) -> Tensor:
    if value is None:
        raise ValueError(f"this model is conditioned on {what}, and the batch has none")
    return value
