"""Samplers against runs of EDM's own code on the exact denoiser of a two-component Gaussian mixture."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from core.geometry import Euclidean
from core.guidance import ScoreField
from core.interfaces import expand
from core.rng import SampleStreams
from core.samplers import Churn, Euler, Heun, OneStep
from core.schedules import EDMPath, Path, VEPath, VPPath, sampling_levels
from core.types import Batch
from tests.support import SHARED_DATA

FILE = SHARED_DATA / "golden" / "images" / "samplers_gmm.npz"
if not FILE.exists():
    pytest.skip(f"no golden references in {SHARED_DATA / 'golden'}", allow_module_level=True)

DATA = np.load(FILE)
META: dict[str, dict[str, Any]] = json.loads(str(DATA["meta"]))
RUNS = [name for name, about in META.items() if "fn" in about]
SHAPE = (3, 4, 4)

# Levels of every discretisation of EDM Table 1, and the path of every schedule, with the defaults of EDM's code.
VP_ENDS = VPPath().sigma(torch.tensor([1e-3, 1.0], dtype=torch.float64)).tolist()
GRIDS = {
    "edm": ("rho", 0.002, 80.0),
    "vp": ("linear-beta", *VP_ENDS),
    "ve": ("geometric", 0.02, 100.0),
    "iddpm": ("cosine", 0.002, 81.0),
}
PATHS: dict[tuple[str, str], Path] = {
    ("linear", "none"): EDMPath(),
    ("ve", "none"): VEPath(),
    ("vp", "vp"): VPPath(),
}


def array(name: str) -> Tensor:
    return torch.from_numpy(DATA[name])


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    """Exact D = E[y | x] of the mixture of N(mu_k, sd_k^2 I) with weights w_k."""
    mu, sd, w = array("mu"), array("sd"), array("w")
    s = expand(sigma, x)
    variance = sd**2 + sigma[:, None] ** 2
    square = (x[:, None] - mu).square().flatten(2).sum(-1)
    weight = torch.softmax(w.log() - square / (2 * variance) - 0.5 * x[0].numel() * variance.log(), dim=1)
    means = torch.stack([(sd[k] ** 2 * x + s**2 * mu[k]) / (sd[k] ** 2 + s**2) for k in range(len(sd))], dim=1)
    return (weight[:, :, None, None, None] * means).sum(1)


class GivenNoise(SampleStreams):
    """Gives recorded noise, one entry [B, ...] per draw."""

    def __init__(self, noise: Tensor | None) -> None:
        super().__init__(0, range(len(DATA["latents"])), "given")
        self.noise = noise

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        assert self.noise is not None, "a deterministic run drew noise"
        assert (shape, dtype) == (SHAPE, torch.float64)
        self._draw += 1
        return self.noise[self._draw - 1]


class Recorder:
    """The exact score, and every level that it was called at."""

    def __init__(self) -> None:
        self.levels: list[float] = []

    def __call__(self, state: Mapping[str, Tensor], level: Tensor, *_: object) -> dict[str, Tensor]:
        self.levels.append(float(level[0]))
        x = state["x"]
        return {"x": (denoise(x, level) - x) / expand(level, x) ** 2}


def setting(about: Mapping[str, Any]) -> tuple[OneStep, Path, Tensor]:
    """Our sampler, path and times for the arguments of EDM's functions."""
    path = PATHS[about.get("schedule", "linear"), about.get("scaling", "none")]
    kind, low, high = GRIDS[about.get("discretization", "edm")]
    solver: OneStep = Euler() if about.get("solver") == "euler" else Heun(about.get("alpha", 1.0))
    if "S_churn" in about:
        s_churn, s_min, s_max, s_noise = (float(about[k]) for k in ("S_churn", "S_min", "S_max", "S_noise"))
        solver = Churn(s_churn, s_min, s_max, s_noise, solver)
    return solver, path, path.time(sampling_levels(kind, about["num_steps"], low, high))


def test_the_denoiser_of_these_tests_is_that_of_the_references() -> None:
    found = denoise(array("denoiser_check/x"), array("denoiser_check/sigma"))
    torch.testing.assert_close(found, array("denoiser_check/D"), rtol=1e-10, atol=1e-10)


def test_all_sixteen_runs_are_there() -> None:
    assert len(RUNS) == 16


@pytest.mark.parametrize("name", RUNS)
def test_samples_and_levels_equal_those_of_edms_code(name: str) -> None:
    about = META[name]
    sampler, path, times = setting(about)
    noise = array(f"{name}/noise") if f"{name}/noise" in DATA else None
    recorder, given = Recorder(), GivenNoise(noise)
    field = ScoreField(recorder, Euclidean({"x": SHAPE}, path), Batch(torch.arange(8)))
    start = {"x": array("latents") * path.scale(times[0]) * path.sigma(times[0])}
    found, expected = sampler.run(field, start, times, given)["x"], array(f"{name}/x")
    levels, called = np.array(recorder.levels), DATA[f"{name}/sigmas_called"]
    tolerance = 1e-9
    if about.get("discretization") == "iddpm":
        # EDM keeps that table in single precision, where its recursion rounds u^2 + 1.
        tolerance, levels, called = 1e-5, levels**2 + 1, called**2 + 1
    assert float((found - expected).norm() / expected.norm()) < tolerance
    assert field.nfe == about["nfe"]
    assert levels == pytest.approx(called, rel=tolerance)
    assert given._draw == (0 if noise is None else len(noise))


def test_heun_converges_to_the_exact_solution_with_second_order() -> None:
    exact, errors = array("exact_ode/x_sigma0.002"), []
    for steps in (60, 120):
        times = sampling_levels("rho", steps, 0.002, 80.0)[:-1]
        field = ScoreField(Recorder(), Euclidean({"x": SHAPE}), Batch(torch.arange(8)))
        found = Heun().run(field, {"x": 80 * array("latents")}, times, GivenNoise(None))["x"]
        errors.append(float((found - exact).norm() / exact.norm()))
    assert errors[1] < 1e-3
    assert 3.4 < errors[0] / errors[1] < 4.6


def test_the_exact_solution_ends_in_its_denoised_image() -> None:
    x = array("exact_ode/x_sigma0.002")
    sigma = torch.full((8,), 0.002, dtype=torch.float64)
    torch.testing.assert_close(denoise(x, sigma), array("exact_ode/D_final"), rtol=1e-9, atol=1e-9)
