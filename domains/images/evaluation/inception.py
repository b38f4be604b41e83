"""Inception-v3 of FID (Heusel et al. 2017), the TensorFlow network of 2015-12-05, through torch-fidelity."""

import importlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from core.errors import ConfigError, DataError
from core.files import sha256
from domains.images.evaluation.extractor import colour, exact_convolutions
from domains.images.torchvision_shim import import_timm

VARIABLE = "DISCO_INCEPTION_WEIGHTS"
PUBLISHED = "6726825d"  # first digits of the SHA-256 of the published file, part of its name too
FILE = f"weights-inception-2015-12-05-{PUBLISHED}.pth"


def import_fidelity() -> Any:
    """torch_fidelity; it imports torchvision, which has to be made importable first. Raises ConfigError without it."""
    import_timm()
    try:
        return importlib.import_module("torch_fidelity")
    except ModuleNotFoundError as error:
        raise ConfigError("extractors: 'inception' needs torch-fidelity: pip install torch-fidelity") from error


def weights_file(given: str = "") -> Path:
    """The file of weights: ``given``, else what ``DISCO_INCEPTION_WEIGHTS`` names. Raises ConfigError without one."""
    named = given or os.environ.get(VARIABLE, "")
    path = Path(named).expanduser()
    if named and path.is_file():
        return path
    found = f"there is no file {path}" if named else "no file of its weights was given"
    raise ConfigError(
        f"FID needs the Inception network, and {found}. Download {FILE} from "
        f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE} (Apache-2.0, 91 MB) and name its "
        f"place in the setting inception_weights or the environment variable {VARIABLE}; or measure without it "
        "(extractors: [efficientnet_lite0])"
    )


class InceptionFeatures:
    """[N, 2048] pooled activations of the FID network, with its 1008 unbiased logits for the Inception score.

    The network resizes to 299 x 299 itself, as TensorFlow 1 did. Only the published weights are called ``inception``:
    with others the name carries their checksum, for a distance under them is no FID.
    """

    dim, classes = 2048, 1008

    def __init__(self, weights: str = "", device: torch.device | str = "cpu") -> None:
        """weights: a file (see ``weights_file``). Raises ConfigError where it or torch-fidelity is missing, DataError
        for a file that does not hold the network. Nothing in the file is executed."""
        path = weights_file(weights)
        fidelity, digest, self.device = import_fidelity(), sha256(path), device
        self.name = "inception" if digest.startswith(PUBLISHED) else f"inception_{digest[:8]}"
        self.identity = f"inception-{digest[:16]}"
        # torch-fidelity unpickles whatever it is given: hand it a copy of what the restricted reader let through.
        safe = io.BytesIO()
        try:
            torch.save(torch.load(path, map_location="cpu", weights_only=True), safe)
            safe.seek(0)
            network = fidelity.FeatureExtractorInceptionV3(
                self.name, ["2048"], feature_extractor_weights_path=safe, feature_extractor_internal_dtype="float32"
            )
        except (RuntimeError, pickle.UnpicklingError, EOFError, TypeError, AttributeError, KeyError) as error:
            raise DataError(f"{path}: these are not the weights of the FID network: download {FILE} again") from error
        self.network = network.to(device)

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        with exact_convolutions():
            (features,) = self.network(colour(images.to(self.device)))
        return features

    @torch.no_grad()
    def logits(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Without the bias, as in the original Inception score."""
        return features @ self.network.fc.weight.T
