"""How good generated digits are: by a classifier and by Frechet distances in fixed feature spaces.

None of these is FID, which uses Inception-v3 features; the feature space is part of every name.
"""

from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC
from torch import Tensor

from core.data import TensorDataset
from core.metrics import frechet_distance
from domains.images.data import load_images

HIDDEN_UNITS = 64


@lru_cache(maxsize=4)
def _judges(name: str) -> tuple[TensorDataset, Any, Any]:
    """All real images, and two classifiers trained on them: a support vector machine and a small network."""
    real = load_images(name, "all")
    pixels, labels = real.fields["x"].flatten(1).numpy(), real.label
    svm = SVC(gamma=0.064).fit(pixels, labels)  # gamma 0.001 at scikit-learn's pixel range 0..16
    network = MLPClassifier((HIDDEN_UNITS,), random_state=0, max_iter=400).fit(pixels, labels)
    return real, svm, network


def hidden_features(name: str, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
    """[N, 64] activations of the hidden layer of a small classifier trained on the real images (fixed seed)."""
    _, _, network = _judges(name)
    weight, bias = torch.as_tensor(network.coefs_[0]), torch.as_tensor(network.intercepts_[0])
    return (images.flatten(1).double().cpu() @ weight.double() + bias.double()).relu()


def class_accuracy(name: str, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]) -> float:
    """Share of images that a support vector machine, trained on the real ones, gives the asked-for class."""
    _, svm, _ = _judges(name)
    predicted = svm.predict(images.flatten(1).float().cpu().numpy())
    return float((torch.as_tensor(predicted) == labels.cpu()).float().mean())


def evaluate_images(
    name: str, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"] | None = None
) -> dict[str, float]:
    """fd_hidden and fd_pixels: Frechet distance to all real images in two spaces; class_accuracy with labels."""
    real = _judges(name)[0].fields["x"]
    images = images.clamp(-1, 1)
    accuracy = {} if labels is None else {"class_accuracy": class_accuracy(name, images, labels)}
    return {
        **accuracy,
        "fd_hidden": frechet_distance(hidden_features(name, images), hidden_features(name, real)),
        "fd_pixels": frechet_distance(images.flatten(1), real.flatten(1)),
    }
