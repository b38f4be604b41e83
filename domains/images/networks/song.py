"""DDPM++ and NCSN++ (Song et al. 2021, "Score-based generative modeling through SDEs") in EDM's form."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from core.errors import ConfigError
from domains.images.networks.layers import (
    BlockSettings,
    Conv,
    FourierEmbedding,
    PositionalEmbedding,
    Resample,
    activated,
    group_norm,
)
from domains.images.networks.tokens import LatentSettings
from domains.images.networks.unet import ImageUNet, UNetSettings

EPS = 1e-6

# Of the Xavier-uniform weights of these layers; 1 for all others. Biases start at zero.
GAINS = {"conv1": 1e-5, "proj": 1e-5, "aux_conv": 1e-5, "qkv": math.sqrt(0.2)}

# Channels per resolution of the published networks: CIFAR-10 at 32 pixels, FFHQ and AFHQ at 64.
MULTIPLES: Mapping[int, tuple[int, ...]] = {32: (2, 2, 2), 64: (1, 2, 2, 2)}


@dataclass(frozen=True)
class SongSettings(UNetSettings):
    """Settings of DDPM++ and NCSN++ (EDM table 7 and code).

    embedding_type: of the noise level; channel_mult_noise: multiple of model_channels in that embedding;
    encoder_type: what of the input image enters the lower resolutions: nothing, its down-sampled self, or a residual
    pyramid; decoder_type: one output, or the sum of one per resolution; resample_filter: taps of the separable filter.
    """

    embedding_type: Literal["positional", "fourier"] = "positional"
    channel_mult_noise: int = 1
    encoder_type: Literal["standard", "skip", "residual"] = "standard"
    decoder_type: Literal["standard", "skip"] = "standard"
    resample_filter: tuple[int, ...] = (1, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embedding_type not in ("positional", "fourier"):
            raise ConfigError(f"embedding_type is positional or fourier, not {self.embedding_type!r}")
        if self.encoder_type not in ("standard", "skip", "residual"):
            raise ConfigError(f"encoder_type is standard, skip or residual, not {self.encoder_type!r}")
        if self.decoder_type not in ("standard", "skip"):
            raise ConfigError(f"decoder_type is standard or skip, not {self.decoder_type!r}")

    @classmethod
    def ddpmpp(cls, img_resolution: int, **changes: Any) -> "SongSettings":
        """EDM's DDPM++ for 32 or 64 pixels: 128 channels, 9 augmentation labels, dropout of CIFAR-10 (0.13) and FFHQ
        (0.05; AFHQ: 0.25). Raises ConfigError for other resolutions, unless ``changes`` has channel_mult."""
        if img_resolution not in MULTIPLES and "channel_mult" not in changes:
            raise ConfigError(f"no DDPM++ or NCSN++ was published for {img_resolution} pixels: give channel_mult")
        published = {
            "channel_mult": MULTIPLES.get(img_resolution),
            "dropout": 0.13 if img_resolution == 32 else 0.05,
            "augment_dim": 9,
        }
        return cls(img_resolution, **{**published, **changes})

    @classmethod
    def ncsnpp(cls, img_resolution: int, **changes: Any) -> "SongSettings":
        """EDM's NCSN++ for 32 or 64 pixels: as DDPM++, with Fourier features, a residual pyramid of the input and a
        wider filter."""
        parts = {
            "embedding_type": "fourier",
            "channel_mult_noise": 2,
            "encoder_type": "residual",
            "resample_filter": (1, 3, 3, 1),
        }
        return cls.ddpmpp(img_resolution, **{**parts, **changes})


class SongUNet(ImageUNet):
    """DDPM++ or NCSN++: one-head attention, conditioning added before the norm, sums scaled by 1/sqrt(2)."""

    settings: SongSettings

    def __init__(self, settings: SongSettings, latents: LatentSettings | None = None) -> None:
        s = settings
        blocks = BlockSettings(
            embedding=s.embedding_width,
            dropout=s.dropout,
            adaptive=False,
            head_channels=None,
            residual_scale=math.sqrt(0.5),
            eps=EPS,
            taps=tuple(s.resample_filter),
            project=True,
        )
        # The decoder attends once per resolution, in its last block.
        super().__init__(
            s, blocks, s.model_channels, lambda size, n: n == s.num_blocks and size in s.attn_resolutions, latents
        )
        width = s.model_channels * s.channel_mult_noise
        positional = s.embedding_type == "positional"
        self.map_noise = PositionalEmbedding(width, endpoint=True) if positional else FourierEmbedding(width)
        self.map_label = nn.Linear(s.label_dim, width) if s.label_dim else None
        self.map_augment = nn.Linear(s.augment_dim, width, bias=False) if s.augment_dim else None
        self.map_layer0 = nn.Linear(width, s.embedding_width)
        self.map_layer1 = nn.Linear(s.embedding_width, s.embedding_width)
        self._add_side_branches(s)
        _initialise(self)

    def _add_side_branches(self, s: SongSettings) -> None:
        taps, side = tuple(s.resample_filter), s.in_channels
        # A resolution starts with the channels of the one above it.
        for size, out in zip(s.resolutions[1:], s.widths[:-1], strict=True):
            name = f"{size}x{size}_aux"
            if s.encoder_type == "skip":
                self.enc[f"{name}_down"] = Resample("down", taps)
                self.enc[f"{name}_skip"] = Conv(side, out, 1)
            elif s.encoder_type == "residual":
                self.enc[f"{name}_residual"] = Conv(side, out, 3, Resample("down", taps), after=True)
                side = out
        for level, (size, width) in enumerate(zip(s.resolutions, s.widths, strict=True)):
            name = f"{size}x{size}_aux"
            if s.decoder_type == "skip" or level == 0:
                if s.decoder_type == "skip" and size != s.resolutions[-1]:
                    self.dec[f"{name}_up"] = Resample("up", taps)
                self.dec[f"{name}_norm"] = group_norm(width, EPS)
                self.dec[f"{name}_conv"] = Conv(width, s.out_channels)

    def embed(self, noise: Tensor, labels: Tensor | None, augment: Tensor | None) -> Tensor:
        cosines, sines = self.map_noise(noise).chunk(2, dim=1)
        width = torch.cat([sines, cosines], dim=1)
        if self.map_label is not None and labels is not None:
            width = width + self.map_label(labels * math.sqrt(self.settings.label_dim))
        if self.map_augment is not None and augment is not None:
            width = width + self.map_augment(augment.to(width.dtype))
        return functional.silu(self.map_layer1(functional.silu(self.map_layer0(width))))

    def enter(self, level: int, x: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
        name = "{0}x{0}_aux".format(self.settings.resolutions[level])
        if self.settings.encoder_type == "skip":
            side = self.enc[f"{name}_down"](side)
            return x + self.enc[f"{name}_skip"](side), side
        if self.settings.encoder_type == "residual":
            x = (x + self.enc[f"{name}_residual"](side)) * math.sqrt(0.5)
            return x, x
        return x, side

    def leave(self, level: int, x: Tensor, image: Tensor | None) -> Tensor | None:
        name = "{0}x{0}_aux".format(self.settings.resolutions[level])
        if f"{name}_conv" not in self.dec:
            return image
        out: Tensor = self.dec[f"{name}_conv"](activated(self.dec[f"{name}_norm"](x)))
        return out if image is None else out + self.dec[f"{name}_up"](image)


def _initialise(network: SongUNet) -> None:
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and "latents" not in name:
            gain = next((g for ending, g in GAINS.items() if name.endswith(ending)), 1.0)
            nn.init.xavier_uniform_(module.weight, gain)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
