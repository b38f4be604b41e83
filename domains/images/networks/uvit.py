"""U-ViT: a U-Net whose lowest resolution is a Vision Transformer (Hoogeboom et al. 2023, "Simple diffusion"; the
network of VDM++, Kingma & Gao 2023), with the residual blocks of EDM's ADM (DisCo-Diff appendix D.1).

The papers fix the widths, the depth and where the latents enter. Ours are: the blocks per resolution, 64 channels per
head, ADM's embedding of the conditions, scale and shift of both norms of a Transformer block, learned positions, 1x1
convolutions into and out of the Transformer, residual branches that start at zero, dropout in the Transformer only.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from core.errors import ConfigError
from core.transformer import Attention
from domains.images.networks.adm import EPS, ADMSettings, DhariwalUNet
from domains.images.networks.attention import LatentAttention, to_image, to_tokens
from domains.images.networks.layers import Block, BlockSettings, Conv, latent_attention, zero
from domains.images.networks.tokens import LatentSettings, LatentTokens
from domains.images.networks.unet import UNetSettings

MLP_RATIO = 4


@dataclass(frozen=True)
class UViTSettings(UNetSettings):
    """Settings of a U-ViT; the defaults are DisCo-Diff's (table 5), with dropout in the Transformer alone.

    channel_mult: the last is the Transformer's, the others are those of the convolutional resolutions above it, which
    num_blocks, attn_resolutions and dropout are about (the Transformer's resolution may be named, and changes nothing);
    channels_per_head: of all self-attention; vit_depth, vit_dropout: of the Transformer; latent_every: cross-attention
    follows every so many Transformer blocks; checkpointing: the backward pass computes the Transformer's activations
    again instead of keeping them. Raises ConfigError for sizes that do not fit together.
    """

    channel_mult: tuple[int, ...] = (1, 2, 4, 16)
    num_blocks: int = 2
    attn_resolutions: tuple[int, ...] = (16, 32, 64)
    dropout: float = 0.0
    channels_per_head: int = 64
    vit_depth: int = 36
    vit_dropout: float = 0.1
    latent_every: int = 3
    checkpointing: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.channel_mult) < 2:
            raise ConfigError(f"channel_mult {self.channel_mult} must have a convolutional part and the Transformer's")
        for name in ("channels_per_head", "vit_depth", "latent_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, and is {getattr(self, name)}")
        if not 0 <= self.vit_dropout < 1:
            raise ConfigError(f"vit_dropout must be at least 0 and below 1, and is {self.vit_dropout}")
        if self.widths[-1] % self.channels_per_head:
            raise ConfigError(
                f"the Transformer's {self.widths[-1]} channels cannot be split into heads of {self.channels_per_head}: "
                "change channels_per_head or the last of channel_mult"
            )

    @classmethod
    def imagenet128(cls, **changes: Any) -> "UViTSettings":
        """DisCo-Diff's network for ImageNet at 128 pixels, 1000 classes."""
        return cls(**{"img_resolution": 128, "label_dim": 1000, **changes})

    @property
    def trunk(self) -> ADMSettings:
        """The convolutional resolutions, as an ADM of their own."""
        shared = {field.name: getattr(self, field.name) for field in fields(UNetSettings)}
        shared["channel_mult"] = self.channel_mult[:-1]
        return ADMSettings(**shared, channels_per_head=self.channels_per_head)


class ViTBlock(nn.Module):
    """Self-attention, then an MLP, each on a LayerNorm that the conditions scale and shift (as AdaGN of ADM does, and
    Peebles & Xie 2023 for Transformers) and each added to its input; then cross-attention to the latents, if any."""

    def __init__(self, width: int, heads: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.affine = nn.Linear(embedding, 4 * width)
        self.norm0, self.norm1 = (nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.attention = Attention(width, heads, zero_init=True)
        self.mlp = nn.Sequential(nn.Linear(width, MLP_RATIO * width), nn.GELU(), nn.Linear(MLP_RATIO * width, width))
        self.dropout = nn.Dropout(dropout)
        self.latents: LatentAttention | None = None
        zero(self.mlp[-1])

    def forward(
        self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"], tokens: list[Tensor]
    ) -> Float[Tensor, "b c h w"]:
        """embedding: of the conditions, after its last SiLU; tokens: [B, L, context] per group of latents."""
        scale0, shift0, scale1, shift1 = self.affine(embedding)[:, None].chunk(4, dim=-1)
        pixels = to_tokens(x)
        normed = torch.addcmul(shift0, self.norm0(pixels), scale0 + 1)
        pixels = pixels + self.dropout(self.attention(normed, normed))
        normed = torch.addcmul(shift1, self.norm1(pixels), scale1 + 1)
        x = to_image(pixels + self.dropout(self.mlp(normed)), x.shape[2])
        return x if self.latents is None else self.latents(x, tokens)


class Bottleneck(nn.Module):
    """[B, into, H, W] -> [B, into, H/2, W/2]: half the resolution, then the Transformer over all pixels.

    size: pixels per side of the Transformer; blocks: what its down-sampling block shares with the U-Net.
    """

    def __init__(self, into: int, size: int, settings: UViTSettings, blocks: BlockSettings) -> None:
        super().__init__()
        s, width = settings, settings.widths[-1]
        self.checkpointing = s.checkpointing
        self.down = Block(into, into, blocks, "down")
        self.enter, self.leave = Conv(into, width, 1), Conv(width, into, 1)
        self.position = nn.Parameter(0.02 * torch.randn(width, size, size))
        heads = width // s.channels_per_head
        self.blocks = nn.ModuleList(
            ViTBlock(width, heads, s.embedding_width, s.vit_dropout) for _ in range(s.vit_depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"], tokens: list[Tensor]
    ) -> Float[Tensor, "b c i j"]:
        x = self.enter(self.down(x, embedding, tokens)) + self.position
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, embedding, tokens, use_reentrant=False)
            else:
                x = block(x, embedding, tokens)
        out: Tensor = self.leave(to_image(self.norm(to_tokens(x)), x.shape[2]))
        return out


class UViT(DhariwalUNet):
    """Raw network F(x, c_noise, latents, batch): the ADM of ``settings.trunk`` whose two middle blocks are the
    Transformer at half the lowest resolution and an up-sampling block. Conditions as in ADM.

    Latents enter after every down- and up-sampling block and after every third Transformer block (``latent_every``;
    DisCo-Diff D.1). Groups of latents enter in the Transformer and after up-sampling blocks, at their resolutions.
    ``settings`` of the module are the trunk's. Raises ConfigError where a group's resolution has no place to enter.
    """

    def __init__(self, settings: UViTSettings, latents: LatentSettings | None = None) -> None:
        trunk = settings.trunk
        super().__init__(trunk)
        width, size = trunk.widths[-1], trunk.resolutions[-1]
        bottleneck, up = Bottleneck(width, size // 2, settings, trunk.blocks), Block(width, width, trunk.blocks, "up")
        self.dec[f"{size}x{size}_in0"], self.dec[f"{size}x{size}_in1"] = bottleneck, up
        for block in (bottleneck.down, up):
            zero(block.conv1)
        if latents is not None:
            self.latents = LatentTokens(latents)
            self._cross_attend(latents, bottleneck, settings.latent_every)

    def _cross_attend(self, latents: LatentSettings, bottleneck: Bottleneck, every: int) -> None:
        """Adds cross-attention wherever latents enter."""
        sizes, low = self.settings.resolutions, self.settings.resolutions[-1]
        # The Transformer counts as the start of the decoder, as ADM's middle blocks do.
        sites: list[tuple[Any, int, bool]] = [(self.enc[f"{size}x{size}_down"], size, False) for size in sizes[1:]]
        sites += [(bottleneck.down, low // 2, False)]
        sites += [(block, low // 2, True) for block in bottleneck.blocks[every - 1 :: every]]
        sites += [(self.dec[f"{low}x{low}_in1"], low, True)]
        sites += [(self.dec[f"{size}x{size}_up"], size, True) for size in sizes[:-1]]
        reached = set()
        for block, size, decoder in sites:
            group = latents.group_at(size, decoder)
            if group is not None:
                channels = block.width if isinstance(block, ViTBlock) else block.conv1.out_channels
                block.latents = latent_attention(channels, EPS, group, latents)
                reached.add(group)
        missing = [size for group, size in enumerate(latents.groups) if group not in reached]
        if missing:
            raise ConfigError(
                f"groups: no latents can enter at resolutions {missing}, only at "
                f"{sorted({size for _, size, decoder in sites if decoder})}: change groups or latent_every"
            )
