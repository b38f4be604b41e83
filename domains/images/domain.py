"""Images: EDM's denoisers or a UViT with cross-attention to latents, and a ViT encoder."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from core.config import RunConfig
from core.errors import DataError, RequestError
from core.flat import FlatDomain
from core.interfaces import Converted, Denoiser, DiscreteEncoder
from core.pipeline import Generated, Pipeline
from core.precondition import PreconditionedDenoiser
from core.types import Batch, FlatState
from domains.images.config import ImageConfig
from domains.images.data.dataset import ImageDataset
from domains.images.data.prepare import verify_once
from domains.images.data.sources import has_test_files, open_source
from domains.images.encoder import ViTEncoder
from domains.images.networks.adm import ADMSettings, DhariwalUNet
from domains.images.networks.song import SongSettings, SongUNet
from domains.images.networks.uvit import UViT, UViTSettings
from domains.images.write import grid, image_file, read_png, save_png, write_images

DIGITS = "digits"
IMAGES = "images"  # folder of samples
COLUMNS = 10  # of a sheet of images, at most, where nothing else is asked for; and its rows
VISIBLE = 48  # pixels per side: smaller images are enlarged
NETWORKS: Mapping[type, type] = {ADMSettings: DhariwalUNet, SongSettings: SongUNet, UViTSettings: UViT}


def enlargement(width: int) -> int:
    """Whole factor that makes images of ``width`` pixels easily visible; 1 where they are so already."""
    return -(-VISIBLE // width)


class ImageDomain(FlatDomain):
    """Images of one size, with or without classes."""

    name = "images"
    Config = ImageConfig

    def __init__(self, config: RunConfig) -> None:
        """Raises ConfigError where latents and network do not fit together."""
        super().__init__(config)
        self.latents = self.model.latent_tokens.build(config.latents)

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

    def dataset(self, split: str) -> ImageDataset:
        """Mirrored and augmented where the split is ``train``. Then all images are decoded once, and test files
        opened: no damage may stop a training half-way or its evaluation. Raises DataError where images or labels are
        missing, damaged or not what the model is made for."""
        plain, data = self.plain_images(split), self.model.data
        if split != "train":
            return plain
        verify_once(plain.source)
        if has_test_files(Path(data.source)):
            self.plain_images("val")
        return replace(plain, flip=data.flip, augment=data.augment)

    def plain_images(self, split: str) -> ImageDataset:
        """Images as they are, to measure by; errors as ``dataset``."""
        model, data = self.model, self.model.data
        if self.classes and not data.labels:
            raise DataError("model.data.labels is false, and the model has classes: set model.classes to 0")
        source = open_source(data.source, split, model.image_channels, data.val_share)
        source = source.require((model.image_channels, model.resolution, model.resolution), self.classes)
        return ImageDataset(source, labels=self.classes > 0, seed=self.config.seed)

    def encoder(self) -> DiscreteEncoder:
        model, vit = self.model, self.model.vit
        sizes = vit.model_dump(exclude={"name"})
        return ViTEncoder(vit.name, model.resolution, model.image_channels, self.config.latents, **sizes)

    def denoiser(self) -> Denoiser:
        settings = self.model.network()
        return PreconditionedDenoiser(NETWORKS[type(settings)](settings, self.latents), self.precondition())

    def evaluate(self, samples: FlatState, batch: Batch) -> dict[str, float]:
        """Of digits, by judges that are trained in a second; raises RequestError for other images, whose protocol is
        ``evaluation``."""
        if self.model.data.source != DIGITS:
            raise RequestError("these images are measured by 'disco evaluate' only")
        from domains.images.metrics import evaluate_images

        return evaluate_images(DIGITS, samples["x"].float(), batch.label)

    def evaluation(
        self, pipeline: Any, request: Any, out: Path, count: int | None
    ) -> dict[str, dict[str, float]] | None:
        if self.model.data.source == DIGITS:
            return None
        from domains.images.evaluation.report import evaluate_generator

        settings = self.model.evaluation
        return evaluate_generator(pipeline, request, settings, out, count, self.plain_images(settings.split))

    def write(self, result: Generated, out: Path) -> list[Path]:
        write_images(result.state["x"], result.batch.ids.tolist(), out / IMAGES)
        return [out / IMAGES]

    def file_of(self, out: Path, number: int) -> Path:
        return image_file(out / IMAGES, number)

    def overview(self, out: Path, ids: Sequence[int]) -> list[Path]:
        """A sheet of the first images."""
        pictures = torch.stack([read_png(self.file_of(out, number)) for number in ids[: COLUMNS**2]])
        columns, scale = min(COLUMNS, len(pictures)), enlargement(pictures.shape[-1])
        return [save_png(grid(pictures, columns), out / "grid.png", scale)]

    def figures(self, pipeline: Pipeline, out: Path) -> list[Path]:
        from domains.images.pictures import draw

        return draw(pipeline, out)

    @classmethod
    def convert(cls, source: Path) -> Converted | None:
        from domains.images.published.convert import convert_edm

        return convert_edm(source)
