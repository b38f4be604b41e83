"""Noise paths and grids of noise levels against their formulas (EDM Table 1)."""

import math

import pytest
import torch
from torch import Tensor

from core.schedules import (
    PATHS,
    EDMPath,
    Path,
    VEPath,
    VPPath,
    cosine_table,
    geometric_levels,
    linear_beta_levels,
    rho_levels,
    sampling_levels,
)

ALL_PATHS = [EDMPath(), VEPath(), VPPath(), VPPath(scaled=False), VPPath.through(0.01, 50.0)]
TIMES = torch.linspace(0.02, 1.0, 25, dtype=torch.float64)
KINDS = ["rho", "geometric", "linear-beta", "cosine"]
LOW, HIGH = 0.002, 80.0


@pytest.mark.parametrize("path", ALL_PATHS, ids=str)
def test_time_is_the_inverse_of_sigma(path: Path) -> None:
    torch.testing.assert_close(path.time(path.sigma(TIMES)), TIMES, rtol=1e-10, atol=0)


@pytest.mark.parametrize("path", ALL_PATHS, ids=str)
@pytest.mark.parametrize("function", ["sigma", "scale"])
def test_rates_are_the_derivatives(path: Path, function: str) -> None:
    t = TIMES.clone().requires_grad_(True)
    value = getattr(path, function)(t)
    slope = torch.zeros_like(t) if not value.requires_grad else torch.autograd.grad(value.sum(), t)[0]
    torch.testing.assert_close(getattr(path, f"{function}_rate")(TIMES), slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("path", ALL_PATHS, ids=str)
def test_time_zero_is_noise_free(path: Path) -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    assert (path.sigma(zero).item(), path.time(zero).item(), path.scale(zero).item()) == (0, 0, 1)


def test_the_scaled_vp_path_preserves_variance() -> None:
    path = VPPath()
    torch.testing.assert_close(path.scale(TIMES) ** 2 * (1 + path.sigma(TIMES) ** 2), torch.ones_like(TIMES))
    assert torch.equal(VPPath(scaled=False).scale(TIMES), torch.ones_like(TIMES))


def test_the_scale_of_the_vp_path_is_the_integral_of_linear_beta() -> None:
    # s = exp(-1/2 int_0^t beta), beta(t) = beta_min + beta_d t
    expected = torch.exp(-0.5 * (0.1 * TIMES + 19.9 * TIMES**2 / 2))
    torch.testing.assert_close(VPPath().scale(TIMES), expected)


@pytest.mark.parametrize(("low", "high"), [(0.002, 80.0), (0.02, 152.0)])
def test_a_vp_path_goes_through_both_given_levels(low: float, high: float) -> None:
    ends = VPPath.through(low, high).sigma(torch.tensor([1e-3, 1.0], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([low, high], dtype=torch.float64), rtol=1e-8, atol=0)


def test_a_vp_path_through_its_own_levels_is_itself() -> None:
    path = VPPath()
    low, high = path.sigma(torch.tensor([1e-3, 1.0], dtype=torch.float64)).tolist()
    again = VPPath.through(low, high)
    assert (again.beta_d, again.beta_min) == (pytest.approx(19.9), pytest.approx(0.1))


def test_paths_are_known_by_name() -> None:
    assert {name: type(cls()) for name, cls in PATHS.items()} == {"edm": EDMPath, "ve": VEPath, "vp": VPPath}


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
def test_rho_levels_are_equation_5(rho: float) -> None:
    n = 5
    expected = [(80 ** (1 / rho) + i / (n - 1) * (0.5 ** (1 / rho) - 80 ** (1 / rho))) ** rho for i in range(n)]
    assert rho_levels(n, 0.5, 80.0, rho).tolist() == pytest.approx(expected, rel=1e-12)


def test_rho_one_is_linear() -> None:
    assert rho_levels(4, 1.0, 7.0, rho=1.0).tolist() == pytest.approx([7, 5, 3, 1])


def test_geometric_levels_have_a_constant_ratio() -> None:
    assert geometric_levels(4, 0.1, 100.0).tolist() == pytest.approx([100, 10, 1, 0.1])


def test_linear_beta_levels_lie_at_equal_time_steps() -> None:
    levels = linear_beta_levels(7, LOW, HIGH)
    times = VPPath.through(LOW, HIGH).time(levels)
    torch.testing.assert_close(times, torch.linspace(1, 1e-3, 7, dtype=torch.float64), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [2, 18, 40])
def test_grids_fall_strictly_and_end_noise_free(kind: str, steps: int) -> None:
    levels = sampling_levels(kind, steps, LOW, HIGH)
    assert levels.shape == (steps + 1,)
    assert levels.dtype == torch.float64
    assert (levels.diff() < 0).all()
    assert levels[-1] == 0


@pytest.mark.parametrize("kind", ["rho", "geometric", "linear-beta"])
@pytest.mark.parametrize("steps", [2, 11])
def test_grids_run_from_the_highest_to_the_lowest_level(kind: str, steps: int) -> None:
    levels = sampling_levels(kind, steps, LOW, HIGH)
    torch.testing.assert_close(levels[[0, -2]], torch.tensor([HIGH, LOW], dtype=torch.float64), rtol=1e-8, atol=0)


@pytest.mark.parametrize("kind", ["rho", "geometric", "linear-beta"])
def test_a_single_step_starts_at_the_highest_level(kind: str) -> None:
    assert sampling_levels(kind, 1, LOW, HIGH).tolist() == pytest.approx([HIGH, 0])


def test_the_cosine_grid_starts_and_ends_inside_the_levels() -> None:
    table, levels = cosine_table(), sampling_levels("cosine", 18, LOW, HIGH)
    inside = table[(table >= LOW) & (table <= HIGH)]
    assert (levels[0], levels[-2]) == (inside.max(), inside.min())
    assert torch.isin(levels, table).all()
    assert sampling_levels("cosine", 1, LOW, HIGH).tolist() == [inside.max(), 0]


def test_the_cosine_table_is_its_closed_form() -> None:
    # Without the cap at c1 the recursion telescopes: u_j^2 + 1 = abar_M / abar_j.
    def alpha_bar(j: Tensor) -> Tensor:
        return (0.5 * math.pi * j / (1000 * 1.008)).sin() ** 2

    index = torch.arange(1, 1001, dtype=torch.float64)
    expected = (alpha_bar(index[-1:]) / alpha_bar(index) - 1).clamp(min=0).sqrt()
    torch.testing.assert_close(cosine_table()[1:], expected, rtol=1e-8, atol=1e-7)


def test_the_highest_cosine_level_is_capped() -> None:
    # abar_0 = 0, so the ratio of the first step is the cap 1e-3.
    table = cosine_table()
    assert table.shape == (1001,)
    assert float(table[0] ** 2 + 1) == pytest.approx(1000 * float(table[1] ** 2 + 1))
    assert table[-1] == 0
