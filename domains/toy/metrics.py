"""How close generated points are to the mixture, and what each code stands for."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.errors import RequestError
from core.metrics import wasserstein2
from core.rng import SampleStreams
from domains.toy.mixture import Mixture

REFERENCE_SEED = 20240703  # of the points that samples are compared with; different from all training data


def reference_points(mixture: Mixture, size: int, balanced: bool) -> Float[Tensor, "n 2"]:
    """True points to compare with: equally many per mode, or independent draws."""
    streams = SampleStreams(REFERENCE_SEED, range(size), "toy/reference")
    if not balanced:
        return mixture.independent(streams)
    return mixture.balanced(size // len(mixture.means), streams)[0]


def evaluate_points(mixture: Mixture, points: Float[Tensor, "n 2"]) -> dict[str, float]:
    """w2: Wasserstein-2 distance to equally many true points, equally many per mode (exact optimal transport);
    mode_imbalance: half the sum of |share of mode - 1/8|; spread: standard deviation around the nearest mean."""
    modes = len(mixture.means)
    points = points[: len(points) // modes * modes].double().cpu()
    if len(points) == 0:
        raise RequestError(f"the toy needs at least {modes} samples to be measured: ask for more with -n")
    nearest = mixture.nearest(points)
    share = torch.bincount(nearest, minlength=modes).double() / len(points)
    return {
        "w2": wasserstein2(points, reference_points(mixture, len(points), balanced=True)),
        "mode_imbalance": float((share - 1 / modes).abs().sum() / 2),
        "spread": float((points - mixture.means[nearest]).square().mean().sqrt()),
    }


@dataclass(frozen=True)
class CodePurity:
    """Which mode each code stands for. purity: [K] share of a code's points in its most frequent mode (NaN: unused);
    mode: [K] that mode; used: number of codes used; modes_owned: number of different modes that codes stand for."""

    purity: Float[Tensor, " k"]
    mode: Int[Tensor, " k"]
    used: int
    modes_owned: int


def code_purity(codes: Int[Tensor, " n"], modes: Int[Tensor, " n"], width: int, mode_count: int = 8) -> CodePurity:
    """Purity of ``width`` codes over points of known modes."""
    table = torch.zeros(width, mode_count, dtype=torch.float64)
    table.index_put_((codes.cpu(), modes.cpu()), torch.ones(len(codes), dtype=torch.float64), accumulate=True)
    total = table.sum(1)
    used = total > 0
    return CodePurity(
        table.max(1).values / total, table.argmax(1), int(used.sum()), len(set(table.argmax(1)[used].tolist()))
    )
