"""The training equation: by hand, as an error of the denoiser, and smallest at the true score."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from core.geometry import Euclidean
from core.interfaces import Denoiser
from core.losses import denoising_loss, score_matching
from core.noise import EDMWeighting
from core.schedules import EDMPath, Path, VPPath
from core.types import Batch, Corrupted, Latents, Tangent
from domains.toy.mixture import Mixture
from tests.support import streams

MIXTURE = Mixture.eight()


class Shifted(Denoiser):
    """The exact score of the mixture, or of each sample's own component, plus a constant."""

    def __init__(self, shift: float = 0.0, mode: Tensor | None = None) -> None:
        super().__init__()
        self.shift, self.mode = shift, mode
        self.seen: list[Tensor] = []

    def forward(self, state: Any, level: Tensor, latents: Latents | None, batch: Any) -> Tangent:
        self.seen.append(level)
        x = state["x"]
        exact = (
            MIXTURE.score(x, level) if self.mode is None else MIXTURE.component_score(x, level, self.mode[batch.ids])
        )
        return {"x": exact + self.shift}


def points(per_mode: int) -> tuple[Batch, Tensor]:
    x, mode = MIXTURE.balanced(per_mode, streams(8 * per_mode, purpose="data"))
    return Batch(torch.arange(len(x)), {"x": x}), mode


def loss(denoiser: Denoiser, batch: Batch, level: float, geometry: Euclidean | None = None) -> Tensor:
    t = torch.full((batch.size,), level, dtype=torch.float64)
    return denoising_loss(denoiser, geometry or Euclidean({"x": (2,)}), batch, t, None, streams(batch.size))


def test_score_matching_by_hand_with_one_field() -> None:
    corrupted: Corrupted[Any] = Corrupted(
        None, {"x": torch.tensor([[1.0, 2.0], [0.0, 0.0]])}, {"x": torch.tensor([[2.0], [3.0]])}
    )
    result = score_matching({"x": torch.tensor([[2.0, 0.0], [1.0, 1.0]])}, corrupted)
    assert result.tolist() == [2 * (1 + 4) / 2, 3 * (1 + 1) / 2]


def test_score_matching_sums_over_fields_and_averages_over_elements() -> None:
    target = {"a": torch.zeros(2, 2), "b": torch.zeros(2, 1, 2, 2)}
    weight = {"a": torch.tensor([[1.0], [10.0]]), "b": torch.full((2, 1, 1, 1), 0.5)}
    predicted = {"a": torch.tensor([[1.0, 3.0], [1.0, 1.0]]), "b": torch.full((2, 1, 2, 2), 2.0)}
    result = score_matching(predicted, Corrupted(None, target, weight))
    assert result.tolist() == [1 * 5 + 0.5 * 4, 10 * 1 + 0.5 * 4]


@pytest.mark.parametrize("path", [EDMPath(), VPPath()], ids=str)
def test_the_loss_is_lambda_times_the_squared_error_of_the_denoiser(path: Path) -> None:
    geometry, (batch, _) = Euclidean({"x": (2,)}, path, EDMWeighting(0.3)), points(2)
    t = torch.linspace(0.1, 0.9, batch.size, dtype=torch.float64)
    sigma = path.sigma(t)
    noisy = batch.clean["x"] + sigma[:, None] * streams(batch.size).normal(2, dtype=torch.float64)
    denoised = noisy + sigma[:, None] ** 2 * (MIXTURE.score(noisy, sigma) + 0.1)
    expected = EDMWeighting(0.3)(sigma) * (denoised - batch.clean["x"]).square().mean(1)
    denoiser = Shifted(0.1)
    result = denoising_loss(denoiser, geometry, batch, t, None, streams(batch.size))
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(denoiser.seen[0], sigma)  # the network is told the level, not the time


@pytest.mark.parametrize("level", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("conditional", [False, True])
def test_a_constant_added_to_the_true_score_adds_its_square_to_the_loss(level: float, conditional: bool) -> None:
    # E (s + d - target)^2 = E (s - target)^2 + d^2, since the target's conditional mean is s.
    batch, mode = points(500)
    chosen = mode if conditional else None
    for shift in (0.5 / level, -0.2 / level):
        added = loss(Shifted(shift, chosen), batch, level) - loss(Shifted(0.0, chosen), batch, level)
        error = 4 * float(added.std()) / math.sqrt(batch.size)
        assert abs(float(added.mean()) - level**4 * shift**2) < error


@pytest.mark.parametrize("level", [0.3, 1.0, 3.0])
def test_the_exact_loss_of_one_component_is_the_posterior_variance(level: float) -> None:
    # y | x is Gaussian with variance spread^2 sigma^2 / (spread^2 + sigma^2) per coordinate, whatever x.
    batch, mode = points(500)
    values = loss(Shifted(mode=mode), batch, level)
    expected = 0.2**2 * level**2 / (0.2**2 + level**2)
    assert abs(float(values.mean()) - expected) < 4 * expected / math.sqrt(batch.size)  # mean of two squares


def test_knowing_the_component_lowers_the_loss_where_components_overlap() -> None:
    batch, mode = points(50)
    unknown, known = loss(Shifted(), batch, 3.0).mean(), loss(Shifted(mode=mode), batch, 3.0).mean()
    assert known < 0.05 * unknown


def test_a_generation_request_cannot_be_trained_on() -> None:
    with pytest.raises(ValueError, match="no clean data"):
        loss(Shifted(), Batch(torch.arange(2)), 1.0)
