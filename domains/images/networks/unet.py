"""The U-Net that EDM's two image networks share: trunk, conditions, latents."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from core.errors import ConfigError
from core.types import Batch, Latents
from domains.images.networks.layers import Block, BlockSettings, Conv, latent_attention
from domains.images.networks.tokens import LatentSettings, LatentTokens


@dataclass(frozen=True)
class UNetSettings:
    """Sizes of a U-Net, under the names of EDM's constructors.

    img_resolution: pixels per side; in_channels: of an image; out_channels: of the raw network, more than in_channels
    where it also predicts variances (iDDPM); label_dim: classes, 0 = unconditional; augment_dim: width of
    augmentation labels, 0 = none; model_channels: base width; channel_mult: its multiple per resolution, halving from
    one to the next; channel_mult_emb: its multiple in the conditioning; num_blocks: residual blocks per resolution;
    attn_resolutions: resolutions with self-attention. Raises ConfigError for sizes that do not fit together.
    """

    img_resolution: int
    in_channels: int = 3
    out_channels: int = 3
    label_dim: int = 0
    augment_dim: int = 0
    model_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    channel_mult_emb: int = 4
    num_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.1

    def __post_init__(self) -> None:
        halvings = len(self.channel_mult) - 1
        if halvings < 0 or self.img_resolution % (1 << halvings):
            raise ConfigError(f"channel_mult: {self.img_resolution} pixels cannot be halved {halvings} times")
        if self.num_blocks < 1:
            raise ConfigError(f"num_blocks must be at least 1, and is {self.num_blocks}")
        if self.model_channels % 2:
            raise ConfigError(f"model_channels must be even, and is {self.model_channels}")
        if self.out_channels < self.in_channels:
            raise ConfigError(f"out_channels = {self.out_channels} is less than an image's {self.in_channels} channels")

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Pixels per side, the highest first."""
        return tuple(self.img_resolution >> level for level in range(len(self.channel_mult)))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels per resolution."""
        return tuple(self.model_channels * multiple for multiple in self.channel_mult)

    @property
    def embedding_width(self) -> int:
        return self.model_channels * self.channel_mult_emb


class ImageUNet(nn.Module, ABC):
    """Raw network F(x, c_noise, latents, batch) for ``core.precondition.PreconditionedDenoiser``.

    Encoder and decoder are module dictionaries by EDM's names ("16x16_block0"). Subclasses add the conditioning and
    what enters or leaves at each resolution. Parameters of latents all have "latents" in their names: everything else
    is the network without latents.
    """

    def __init__(
        self,
        settings: UNetSettings,
        blocks: BlockSettings,
        stem: int,
        attends: Callable[[int, int], bool],
        latents: LatentSettings | None,
    ) -> None:
        """stem: channels of the first convolution; attends: whether decoder block (resolution, number) has
        self-attention."""
        super().__init__()
        s, self.settings = settings, settings
        last = len(s.widths) - 1
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        self.enc[f"{s.img_resolution}x{s.img_resolution}_conv"] = Conv(s.in_channels, stem)
        width, skips = stem, [stem]
        for level, (out, size) in enumerate(zip(s.widths, s.resolutions, strict=True)):
            if level:
                self.enc[f"{size}x{size}_down"] = Block(width, width, blocks, "down")
                skips.append(width)
            for number in range(s.num_blocks):
                attention = size in s.attn_resolutions
                self.enc[f"{size}x{size}_block{number}"] = Block(width, out, blocks, attention=attention)
                width = out
                skips.append(width)
        for level, (out, size) in reversed(list(enumerate(zip(s.widths, s.resolutions, strict=True)))):
            if level == last:
                self.dec[f"{size}x{size}_in0"] = Block(width, width, blocks, attention=True)
                self.dec[f"{size}x{size}_in1"] = Block(width, width, blocks)
            else:
                self.dec[f"{size}x{size}_up"] = Block(width, width, blocks, "up")
            for number in range(s.num_blocks + 1):
                attention = attends(size, number)
                into = width + skips.pop()
                self.dec[f"{size}x{size}_block{number}"] = Block(into, out, blocks, attention=attention)
                width = out
        self.latents = LatentTokens(latents) if latents else None
        if latents:
            self._attend_to_latents(latents, blocks.eps)

    def _attend_to_latents(self, latents: LatentSettings, eps: float) -> None:
        """Adds cross-attention after the self-attentions that see latents."""
        reached = set()
        for part, decoder in ((self.enc, False), (self.dec, True)):
            for name, block in part.items():
                if not isinstance(block, Block) or not block.heads:
                    continue
                group = latents.group_at(int(name.split("x")[0]), decoder)
                if group is not None:
                    block.latents = latent_attention(block.conv1.out_channels, eps, group, latents)
                    reached.add(group)
        if len(reached) < max(1, len(latents.groups)):
            raise ConfigError(
                f"latents enter after self-attention in the decoder, and there is none at {latents.groups or 'any'} "
                "(all of these resolutions): change groups or attn_resolutions"
            )

    @abstractmethod
    def embed(self, noise: Tensor, labels: Tensor | None, augment: Tensor | None) -> Tensor:
        """[B, embedding] from c_noise [B], one-hot classes [B, label_dim] and augmentation labels [B, augment_dim]."""

    def enter(self, level: int, x: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
        """What joins the encoder at the start of a lower resolution, and the side branch from there on; nothing by
        default."""
        return x, side

    @abstractmethod
    def leave(self, level: int, x: Tensor, image: Tensor | None) -> Tensor | None:
        """The output so far at the end of a resolution of the decoder."""

    def raw(
        self, x: Float[Tensor, "b c h w"], noise: Float[Tensor, " b"], latents: Latents | None, batch: Batch
    ) -> Float[Tensor, "b d h w"]:
        """All output channels. x: c_in times the noisy images; noise: c_noise.

        ``batch.label`` [B] (``label_dim`` = dropped; None = all dropped), ``batch.vector`` [B, augment_dim] (None =
        zeros). Raises ValueError where latents are given to a network without, or missing in one with latents.
        """
        if (latents is None) != (self.latents is None):
            raise ValueError("this network was built " + ("without latents" if self.latents is None else "for latents"))
        tokens = [] if self.latents is None else self.latents(latents, x.dtype)
        embedding = self.embed(noise, self._labels(x, batch.label), batch.vector)
        if x.device.type == "cpu":
            x = x.contiguous(memory_format=torch.channels_last)
        skips = self._encode(x, embedding, tokens)
        return self._decode(skips, embedding, tokens)

    def forward(
        self, x: Float[Tensor, "b c h w"], noise: Float[Tensor, " b"], latents: Latents | None, batch: Batch
    ) -> Float[Tensor, "b c h w"]:
        """The output channels that estimate the image (iDDPM: the rest are variances); see ``raw``."""
        return self.raw(x, noise, latents, batch)[:, : self.settings.in_channels]

    def _labels(self, x: Tensor, label: Tensor | None) -> Tensor | None:
        classes = self.settings.label_dim
        if not classes:
            return None
        if label is None:
            return x.new_zeros(len(x), classes)
        return functional.one_hot(label, classes + 1)[:, :classes].to(x.dtype)

    def _encode(self, x: Tensor, embedding: Tensor, tokens: Sequence[Tensor]) -> list[Tensor]:
        """Everything that the decoder gets, in the order of the encoder."""
        skips, side = [], x
        for level, size in enumerate(self.settings.resolutions):
            if level:
                x, side = self.enter(level, self.enc[f"{size}x{size}_down"](x, embedding, tokens), side)
            else:
                x = self.enc[f"{size}x{size}_conv"](x)
            skips.append(x)
            for number in range(self.settings.num_blocks):
                x = self.enc[f"{size}x{size}_block{number}"](x, embedding, tokens)
                skips.append(x)
        return skips

    def _decode(self, skips: list[Tensor], embedding: Tensor, tokens: Sequence[Tensor]) -> Tensor:
        x, image = skips[-1], None
        last = len(self.settings.resolutions) - 1
        for level, size in reversed(list(enumerate(self.settings.resolutions))):
            for step in ("in0", "in1") if level == last else ("up",):
                x = self.dec[f"{size}x{size}_{step}"](x, embedding, tokens)
            for number in range(self.settings.num_blocks + 1):
                x = torch.cat([x, skips.pop()], dim=1)
                x = self.dec[f"{size}x{size}_block{number}"](x, embedding, tokens)
            image = self.leave(level, x, image)
        assert image is not None
        return image
