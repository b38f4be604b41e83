"""Preconditioning against EDM Table 1."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.precondition import (
    EDMPrecondition,
    IDDPMPrecondition,
    Precondition,
    PreconditionedDenoiser,
    VEPrecondition,
    VPPrecondition,
)
from core.schedules import VPPath, cosine_table
from core.types import Batch
from tests.support import streams

SIGMAS = torch.logspace(-2, 1.9, 30, dtype=torch.float64)
ALL = [EDMPrecondition(0.5), VPPrecondition(), VEPrecondition(), IDDPMPrecondition()]


class Raw(nn.Module):
    """2 tanh(x) + c_noise in single precision, and a record of what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))
        self.inputs: list[tuple[Tensor, Tensor, Any, Any]] = []

    def forward(self, x: Tensor, noise: Tensor, latents: Any, batch: Any) -> Tensor:
        self.inputs.append((x, noise, latents, batch))
        return self.gain * x.tanh() + noise[:, None]


def states(size: int = 4) -> Tensor:
    return streams(size).normal(3, dtype=torch.float64)


@pytest.mark.parametrize("sigma_data", [0.2, 0.5, 3.0])
def test_edm_gives_the_network_input_unit_variance(sigma_data: float) -> None:
    c = EDMPrecondition(sigma_data)(SIGMAS)
    torch.testing.assert_close(c.into**2 * (sigma_data**2 + SIGMAS**2), torch.ones_like(SIGMAS))


@pytest.mark.parametrize("sigma_data", [0.2, 0.5, 3.0])
def test_edm_gives_the_network_target_unit_variance(sigma_data: float) -> None:
    # Target (y - c_skip (y + sigma n)) / c_out, with y and n independent.
    c = EDMPrecondition(sigma_data)(SIGMAS)
    variance = ((1 - c.skip) ** 2 * sigma_data**2 + c.skip**2 * SIGMAS**2) / c.out**2
    torch.testing.assert_close(variance, torch.ones_like(SIGMAS))


def test_edm_skip_amplifies_network_errors_least() -> None:
    # c_out^2 = (1 - c_skip)^2 sd^2 + c_skip^2 sigma^2 is smallest where its derivative in c_skip is zero.
    skip = EDMPrecondition(0.5)(SIGMAS).skip
    torch.testing.assert_close((1 - skip) * 0.25, skip * SIGMAS**2)


def test_edm_noise_input_is_a_quarter_of_log_sigma() -> None:
    torch.testing.assert_close(EDMPrecondition()(SIGMAS).noise, SIGMAS.log() / 4)


@pytest.mark.parametrize("precondition", [VPPrecondition(), IDDPMPrecondition()], ids=["vp", "iddpm"])
def test_vp_and_iddpm_predict_noise(precondition: Precondition) -> None:
    c = precondition(SIGMAS)
    assert torch.equal(c.skip, torch.ones_like(SIGMAS))
    assert torch.equal(c.out, -SIGMAS)
    torch.testing.assert_close(c.into, 1 / (SIGMAS**2 + 1).sqrt())


def test_vp_noise_input_is_the_time_in_units_of_its_steps() -> None:
    time = VPPrecondition()(SIGMAS).noise / 999
    torch.testing.assert_close(VPPath().sigma(time), SIGMAS)


def test_ve_coefficients_are_those_of_table_1() -> None:
    c, one = VEPrecondition()(SIGMAS), torch.ones_like(SIGMAS)
    assert torch.equal(c.skip, one)
    assert torch.equal(c.out, SIGMAS)
    assert torch.equal(c.into, one)
    torch.testing.assert_close(c.noise, (0.5 * SIGMAS).log())


def test_iddpm_noise_input_is_the_index_of_the_nearest_level_counted_from_the_end() -> None:
    index = torch.tensor([1, 10, 500, 999])
    levels, below = cosine_table()[index], cosine_table()[index + 1]
    assert IDDPMPrecondition()(levels).noise.tolist() == [998, 989, 499, 0]  # M - 1 - j
    assert IDDPMPrecondition()(0.6 * levels + 0.4 * below).noise.tolist() == [998, 989, 499, 0]
    assert IDDPMPrecondition()(0.4 * levels + 0.6 * below).noise.tolist() == [997, 988, 498, -1]


@pytest.mark.parametrize("precondition", ALL, ids=lambda p: type(p).__name__)
def test_without_noise_the_denoiser_is_the_identity(precondition: Precondition) -> None:
    x, sigma = states(), torch.full((4,), 1e-7, dtype=torch.float64)
    denoised = PreconditionedDenoiser(Raw(), precondition).denoise(x, sigma, None, Batch(torch.arange(4)))
    # c_noise of VP and iDDPM goes up to 1000; c_out is 1e-7.
    torch.testing.assert_close(denoised, x, rtol=0, atol=2e-4)


@pytest.mark.parametrize("precondition", ALL, ids=lambda p: type(p).__name__)
def test_the_score_is_the_denoiser_less_the_state_over_the_variance(precondition: Precondition) -> None:
    network, x, batch = Raw(), states(), Batch(torch.arange(4))
    sigma = torch.tensor([0.1, 1.0, 5.0, 50.0], dtype=torch.float64)
    score = PreconditionedDenoiser(network, precondition, field="y")({"y": x}, sigma, None, batch)["y"]
    c = precondition(sigma)
    raw = 2 * (c.into[:, None] * x).tanh() + c.noise[:, None]
    expected = (c.skip[:, None] * x + c.out[:, None] * raw - x) / sigma[:, None] ** 2
    torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-4)
    assert network.inputs[0][3] is batch


def test_the_state_keeps_double_precision_around_a_single_precision_network() -> None:
    network, x = Raw(), states()
    with torch.no_grad():
        network.gain.zero_()
    sigma = torch.ones(4, dtype=torch.float64)  # c_noise = 0 there, so the raw network gives exactly zero
    score = PreconditionedDenoiser(network, EDMPrecondition(0.5))({"x": x}, sigma, None, Batch(torch.arange(4)))["x"]
    assert network.inputs[0][0].dtype == network.inputs[0][1].dtype == torch.float32
    assert score.dtype == torch.float64
    torch.testing.assert_close(score, -x / 1.25, rtol=1e-13, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_double_precision_levels_or_networks_do_not_widen_the_state(dtype: torch.dtype) -> None:
    x, sigma = states().float(), torch.ones(4, dtype=torch.float64)
    denoiser = PreconditionedDenoiser(Raw().to(dtype), EDMPrecondition())
    assert denoiser({"x": x}, sigma, None, Batch(torch.arange(4)))["x"].dtype == torch.float32
