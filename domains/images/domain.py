"""Images: class-conditional generation with a U-Net and a ViT encoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, PositiveInt, model_validator

from core.config import RunConfig, Section, heads_divide
from core.data import TensorDataset
from core.errors import ConfigError
from core.flat import FlatConfig, FlatDomain
from core.interfaces import Denoiser, DiscreteEncoder
from core.pipeline import Generated, Pipeline, Request
from core.precondition import PreconditionedDenoiser
from core.spaces import latent_space
from core.transformer import LatentEmbedding
from core.types import Batch, FlatState
from domains.images.data import DATA_FACTS, load_images
from domains.images.encoder import ViTEncoder
from domains.images.metrics import evaluate_images
from domains.images.unet import UNet, UNetShape
from domains.images.write import grid, save_png, write_images

GRID_SCALE = 6


class UNetConfig(Section):
    """The denoiser. multipliers: channels per resolution; attention: resolutions in pixels with attention blocks."""

    channels: PositiveInt = 32
    multipliers: tuple[PositiveInt, ...] = Field(default=(1, 2), min_length=1)
    blocks: PositiveInt = 1
    attention: tuple[PositiveInt, ...] = (4,)
    head_channels: PositiveInt = 32
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_fit(self) -> "UNetConfig":
        for width in (self.channels * m for m in self.multipliers):
            heads_divide(self, width, max(1, width // self.head_channels))
        return self


class LatentTokensConfig(Section):
    """How latents enter the denoiser: a Transformer over their embeddings, then cross-attention. zero_init: start as
    the plain model (to add latents to a trained one)."""

    width: PositiveInt = 192
    depth: PositiveInt = 6
    heads: PositiveInt = 6
    zero_init: bool = True

    @model_validator(mode="after")
    def _heads_fit(self) -> "LatentTokensConfig":
        return heads_divide(self, self.width, self.heads)


class ViTConfig(Section):
    """The encoder: a timm ViT by name, and the sizes to override."""

    name: str = "vit_tiny_patch16_224"
    patch_size: PositiveInt = 2
    embed_dim: PositiveInt = 64
    depth: PositiveInt = 3
    num_heads: PositiveInt = 4

    @model_validator(mode="after")
    def _heads_fit(self) -> "ViTConfig":
        return heads_divide(self, self.embed_dim, self.num_heads)


class ImageConfig(FlatConfig):
    """The ``model`` section of image runs."""

    data: Literal["digits"] = "digits"
    resolution: PositiveInt = 8
    image_channels: PositiveInt = 1
    classes: int = Field(default=10, ge=0)
    unet: UNetConfig = UNetConfig()
    latent_tokens: LatentTokensConfig = LatentTokensConfig()
    vit: ViTConfig = ViTConfig()

    @model_validator(mode="after")
    def _fits_the_data(self) -> "ImageConfig":
        facts = DATA_FACTS[self.data]
        if (self.resolution, self.image_channels) != (facts.resolution, facts.channels):
            raise ValueError(f"{self.data} needs resolution {facts.resolution} and image_channels {facts.channels}")
        sizes = [self.resolution >> level for level in range(len(self.unet.multipliers))]
        if sizes[-1] < 1 or self.resolution % sizes[-1]:
            raise ValueError(f"unet.multipliers: {self.resolution} pixels cannot be halved {len(sizes) - 1} times")
        if not set(self.unet.attention) <= set(sizes):
            raise ValueError(
                f"unet.attention: the U-Net has resolutions {sizes}, not all of {list(self.unet.attention)}"
            )
        if self.resolution % self.vit.patch_size:
            raise ValueError(f"vit.patch_size: {self.resolution} pixels are no multiple of {self.vit.patch_size}")
        if self.classes not in (0, facts.classes):
            raise ValueError(f"{self.data} has {facts.classes} classes: set classes to that, or to 0 to do without")
        return self


class ImageDomain(FlatDomain):
    """Images: U-Net denoiser with cross-attention to the latents, timm ViT encoder, classes."""

    name = "images"
    Config = ImageConfig

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        if config.latents.kind != "none" and not config.model.unet.attention:
            raise ConfigError("model.unet.attention is empty, and latents enter by attention: name a resolution")

    @property
    def model(self) -> ImageConfig:
        model: ImageConfig = self.config.model
        return model

    @property
    def classes(self) -> int:  # type: ignore[override]
        return self.model.classes

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"x": (self.model.image_channels, self.model.resolution, self.model.resolution)}

    def dataset(self, split: str) -> TensorDataset:
        return load_images(self.model.data, split)

    def encoder(self) -> DiscreteEncoder:
        model, vit = self.model, self.model.vit
        sizes = vit.model_dump(exclude={"name"})
        return ViTEncoder(vit.name, model.resolution, model.image_channels, self.config.latents, **sizes)

    def denoiser(self) -> Denoiser:
        model, tokens = self.model, None
        if self.config.latents.kind != "none":
            space, sizes = latent_space(self.config.latents), model.latent_tokens
            tokens = LatentEmbedding(space.count, space.width, sizes.width, sizes.depth, sizes.heads)
        shape = UNetShape(model.resolution, model.image_channels, classes=model.classes, **model.unet.model_dump())
        return PreconditionedDenoiser(UNet(shape, tokens, model.latent_tokens.zero_init), self.precondition())

    def evaluate(self, samples: FlatState, batch: Batch) -> dict[str, float]:
        return evaluate_images(self.model.data, samples["x"].float(), batch.label)

    def write(self, result: Generated, out: Path) -> list[Path]:
        images = result.state["x"]
        write_images(images, result.batch.ids.tolist(), out / "images")
        columns = max(1, min(10, result.batch.size))
        return [save_png(grid(images, columns), out / "grid.png", GRID_SCALE), out / "images"]

    def figures(self, pipeline: Pipeline, out: Path) -> list[Path]:
        """Grids: samples; samples that share their latents; half of the latents swapped between two sources."""
        rows, columns = 4, self.classes or 10
        everything = pipeline.generate(Request(count=rows * columns))
        files = [save_png(grid(everything.state["x"], columns), out / "samples.png", GRID_SCALE)]
        if pipeline.space is None or everything.latents is None or self.config.latents.kind != "discrete":
            return files
        shared = self._shared_latents(pipeline, rows, columns)
        files.append(save_png(grid(shared, columns), out / "shared-latents.png", GRID_SCALE))
        swapped = self._swapped_latents(pipeline, everything.latents.codes, columns)
        files.append(save_png(grid(swapped, columns), out / "swapped-latents.png", GRID_SCALE))
        return files

    def _shared_latents(self, pipeline: Pipeline, rows: int, columns: int) -> torch.Tensor:
        """Every row is one latent vector, drawn for class number row, under all classes; one noise per column."""
        drawn = pipeline.latents_for(Request(count=rows), self.request(range(rows)))
        codes = () if drawn is None else drawn.codes
        return torch.cat([pipeline.generate(Request(count=columns, codes=z)).state["x"] for z in codes])

    def _swapped_latents(self, pipeline: Pipeline, codes: torch.Tensor, columns: int) -> torch.Tensor:
        """Four rows, one class and noise per column: latents A; A with the second half of B; B with that of A; B."""
        half = codes.shape[1] // 2
        a, b = codes[:columns], codes[columns : 2 * columns]
        rows = [a, torch.cat([a[:, :half], b[:, half:]], 1), torch.cat([b[:, :half], a[:, half:]], 1), b]
        return torch.cat([pipeline.generate(Request(count=columns, codes=z)).state["x"] for z in rows])
