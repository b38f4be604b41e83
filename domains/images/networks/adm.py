"""ADM (Dhariwal & Nichol 2021, "Diffusion models beat GANs on image synthesis") in EDM's form."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from domains.images.networks.layers import BlockSettings, Conv, PositionalEmbedding, activated, group_norm, zero
from domains.images.networks.tokens import LatentSettings
from domains.images.networks.unet import ImageUNet, UNetSettings

EPS = 1e-5
ZERO = ("conv1", "proj", "out_conv", "map_augment")  # layers that start at zero


@dataclass(frozen=True)
class ADMSettings(UNetSettings):
    """Settings of ADM; the defaults are EDM's. channels_per_head: of self-attention; a resolution with fewer channels
    has none, even where attn_resolutions names it."""

    model_channels: int = 192
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    num_blocks: int = 3
    attn_resolutions: tuple[int, ...] = (32, 16, 8)
    channels_per_head: int = 64

    @classmethod
    def imagenet64(cls, **changes: Any) -> "ADMSettings":
        """EDM's network for ImageNet at 64 pixels, 1000 classes: 295,899,267 parameters."""
        return cls(**{"img_resolution": 64, "label_dim": 1000, **changes})

    @property
    def blocks(self) -> BlockSettings:
        """What all blocks share."""
        return BlockSettings(
            embedding=self.embedding_width,
            dropout=self.dropout,
            adaptive=True,
            head_channels=self.channels_per_head,
            residual_scale=1.0,
            eps=EPS,
            taps=(1, 1),
            project=False,
        )


class DhariwalUNet(ImageUNet):
    """ADM: attention with 64 channels per head, conditioning that scales and shifts, classes without a bias."""

    settings: ADMSettings

    def __init__(self, settings: ADMSettings, latents: LatentSettings | None = None) -> None:
        s, width = settings, settings.embedding_width
        super().__init__(s, s.blocks, s.widths[0], lambda size, _: size in s.attn_resolutions, latents)
        self.map_noise = PositionalEmbedding(s.model_channels, endpoint=False)
        self.map_augment = nn.Linear(s.augment_dim, s.model_channels, bias=False) if s.augment_dim else None
        self.map_layer0 = nn.Linear(s.model_channels, width)
        self.map_layer1 = nn.Linear(width, width)
        self.map_label = nn.Linear(s.label_dim, width, bias=False) if s.label_dim else None
        self.out_norm, self.out_conv = group_norm(s.widths[0], EPS), Conv(s.widths[0], s.out_channels)
        _initialise(self)

    def embed(self, noise: Tensor, labels: Tensor | None, augment: Tensor | None) -> Tensor:
        width = self.map_noise(noise)
        if self.map_augment is not None and augment is not None:
            width = width + self.map_augment(augment.to(width.dtype))
        out = self.map_layer1(functional.silu(self.map_layer0(width)))
        if self.map_label is not None and labels is not None:
            out = out + self.map_label(labels)
        return functional.silu(out)

    def leave(self, level: int, x: Tensor, image: Tensor | None) -> Tensor | None:
        return image if level else self.out_conv(activated(self.out_norm(x)))


def _initialise(network: DhariwalUNet) -> None:
    """Weights and biases uniform in +-1/sqrt(fan in), which is what layers of PyTorch start with; classes of unit
    variance."""
    for name, module in network.named_modules():
        if name.endswith(ZERO) and "latents" not in name:
            zero(module)
    if network.map_label is not None:
        nn.init.normal_(network.map_label.weight)
