"""The ``model`` section of image runs."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PositiveInt, SerializeAsAny, create_model, model_validator

from core.config import LatentConfig, Section, heads_divide
from core.errors import ConfigError
from core.flat import FlatConfig
from core.spaces import latent_space
from domains.images.data.augment import LABELS
from domains.images.data.config import ImageDataConfig
from domains.images.evaluation.config import ImageEvaluationConfig
from domains.images.networks.adm import ADMSettings
from domains.images.networks.song import SongSettings
from domains.images.networks.tokens import LatentSettings
from domains.images.networks.uvit import UViTSettings

# What follows from the data: channels of image and network, classes, augmentation labels.
GIVEN = ("img_resolution", "in_channels", "out_channels", "label_dim", "augment_dim")
VARIANCES = 2  # iDDPM's network predicts as many channels again
SMALL = {"patch_size": 2, "embed_dim": 64, "depth": 3, "num_heads": 4}  # the encoder's sizes where no ViT is named


class NetworkConfig(Section):
    """Base of the denoisers' sections. variances: iDDPM's second half of output channels, which sampling ignores."""

    settings: ClassVar[type[Any]]
    network: str
    variances: bool = False

    def build(self, resolution: int, channels: int, classes: int, augmented: bool) -> Any:
        """The settings of the network itself. Raises ConfigError for sizes that do not fit together."""
        return self.settings(
            img_resolution=resolution,
            in_channels=channels,
            out_channels=channels * (VARIANCES if self.variances else 1),
            label_dim=classes,
            augment_dim=LABELS if augmented else 0,
            **self.model_dump(exclude={"network", "variances"}),
        )


def _section(kind: str, settings: type[Any]) -> type[NetworkConfig]:
    """A section with the fields of a network's settings, which say what they mean and check what fits."""
    free: dict[str, Any] = {"network": (Literal[kind], kind)}
    for each in fields(settings):
        if each.name not in GIVEN:
            free[each.name] = (each.type, ... if each.default is MISSING else each.default)
    section: type[NetworkConfig] = create_model(f"{settings.__name__}Section", __base__=NetworkConfig, **free)
    section.settings = settings
    return section


SECTIONS = {
    kind: _section(kind, settings)
    for kind, settings in (("adm", ADMSettings), ("song", SongSettings), ("uvit", UViTSettings))
}


def _network(value: Any) -> Any:
    """The section of the network that is named."""
    if isinstance(value, NetworkConfig):
        return value
    kind = value.get("network") if isinstance(value, Mapping) else None
    if kind not in SECTIONS:
        raise ValueError(f"network must be one of {', '.join(SECTIONS)}, and is {kind!r}")
    return SECTIONS[kind].model_validate(value)


class LatentTokensConfig(Section):
    """How latents enter the denoiser: a Transformer over their embeddings, then cross-attention (DisCo-Diff 3.3).

    null_token: one more token, to which attention can turn away from the latents; groups: resolutions, the lowest
    first, at which equal parts of the latents enter the decoder, empty for all latents everywhere; zero_init: start as
    the model without latents, to add them to a trained one.
    """

    width: PositiveInt = 192
    depth: PositiveInt = 6
    heads: PositiveInt = 6
    null_token: bool = False
    groups: tuple[PositiveInt, ...] = ()
    zero_init: bool = True

    @model_validator(mode="after")
    def _heads_fit(self) -> "LatentTokensConfig":
        return heads_divide(self, self.width, self.heads)

    def build(self, latents: LatentConfig) -> LatentSettings | None:
        """None for a model without latents. Raises ConfigError for groups that do not fit."""
        if latents.kind == "none":
            return None
        space = latent_space(latents)
        return LatentSettings(space.count, space.width, **self.model_dump())


class ViTConfig(Section):
    """The encoder: a timm ViT by name, and the sizes to override (null: the named model's own). Without a name: a small
    ViT, with the sizes of ``SMALL`` where none are given."""

    name: str = "vit_tiny_patch16_224"
    patch_size: PositiveInt | None = None
    embed_dim: PositiveInt | None = None
    depth: PositiveInt | None = None
    num_heads: PositiveInt | None = None

    @model_validator(mode="before")
    @classmethod
    def _small_without_a_name(cls, value: Any) -> Any:
        return {**SMALL, **value} if isinstance(value, Mapping) and "name" not in value else value

    @model_validator(mode="after")
    def _heads_fit(self) -> "ViTConfig":
        if self.embed_dim is None or self.num_heads is None:
            return self  # timm checks what it chooses
        return heads_divide(self, self.embed_dim, self.num_heads)


class ImageConfig(FlatConfig):
    """The ``model`` section of image runs. resolution, image_channels, classes: what the data must have (classes 0: an
    unconditional model); denoiser: its ``network`` and that network's sizes, by the names of EDM's constructors."""

    data: ImageDataConfig = ImageDataConfig()
    resolution: PositiveInt = 8
    image_channels: Literal[1, 3] = 1
    classes: int = Field(default=10, ge=0)
    denoiser: Annotated[SerializeAsAny[NetworkConfig], BeforeValidator(_network)] = Field(
        default={"network": "adm", "model_channels": 32, "channel_mult": (1, 2), "num_blocks": 1,
                 "attn_resolutions": (4,), "channels_per_head": 32},
        validate_default=True,
    )  # fmt: skip
    latent_tokens: LatentTokensConfig = LatentTokensConfig()
    vit: ViTConfig = ViTConfig()
    evaluation: ImageEvaluationConfig = ImageEvaluationConfig()

    @model_validator(mode="after")
    def _sizes_fit(self) -> "ImageConfig":
        try:
            self.network()
        except ConfigError as error:
            raise ValueError(f"denoiser: {error}") from error
        if self.vit.patch_size and self.resolution % self.vit.patch_size:
            raise ValueError(f"vit.patch_size: {self.resolution} pixels are no multiple of {self.vit.patch_size}")
        return self

    def network(self) -> Any:
        """Settings of the denoiser. Raises ConfigError for sizes that do not fit together."""
        return self.denoiser.build(self.resolution, self.image_channels, self.classes, self.data.augment > 0)
