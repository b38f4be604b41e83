"""Averages of the weights: their profiles in closed form, and what happens to buffers and state."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn

from core.config import EMAConfig
from core.training.ema import EMA, power_decay, power_exponent, warmup_decay


class Net(nn.Module):
    """A parameter, running statistics in another precision, and a counter."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), value, dtype=torch.float64))
        self.register_buffer("mean", torch.full((2,), value))
        self.register_buffer("count", torch.tensor(0))


def run(config: EMAConfig, values: list[float], start: float = 100.0) -> float:
    """Average after the weights have taken the given values, one per update."""
    net = Net(start)
    ema = EMA(net, config)
    for value in values:
        with torch.no_grad():
            net.weight.fill_(value)
        ema.update()
    return float(ema.average.get_parameter("weight")[0])


@pytest.mark.parametrize(
    ("update", "decay"), [(0, 1 / 10), (1, 2 / 11), (8, 9 / 18), (80, 81 / 90), (8990, 0.999), (10**6, 0.999)]
)
def test_warmup_follows_its_formula_up_to_the_decay(update: int, decay: float) -> None:
    assert warmup_decay(0.999)(update) == pytest.approx(decay, abs=1e-12)


@pytest.mark.parametrize(("std", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_the_exponent_is_that_of_the_edm2_paper(std: float, gamma: float) -> None:
    assert round(power_exponent(std), 2) == gamma


@pytest.mark.parametrize("std", [0.01, 0.05, 0.1, 0.2, 0.28])
def test_the_exponent_gives_the_asked_for_width(std: float) -> None:
    gamma = power_exponent(std)
    assert gamma > -1
    assert (gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)) == pytest.approx(std**2, rel=1e-9)


@pytest.mark.parametrize("std", [0.05, 0.1, 0.25])
def test_the_width_of_the_weights_is_the_asked_for_share_of_the_run(std: float) -> None:
    decay, steps = power_decay(std), 4000
    betas = np.array([decay(n) for n in range(steps)])
    weights = (1 - betas) * np.append(np.cumprod(betas[::-1])[::-1][1:], 1.0)
    place = (np.arange(steps) + 0.5) / steps
    mean = (weights * place).sum()
    assert weights.sum() == pytest.approx(1)
    assert np.sqrt((weights * (place - mean) ** 2).sum()) == pytest.approx(std, rel=2e-3)


def test_the_power_average_is_the_mean_weighted_by_the_power_profile() -> None:
    std, values = 0.1, [3.0, -1.0, 4.0, 1.0, -5.0, 9.0, 2.0]
    exponent = power_exponent(std) + 1
    ends = np.arange(len(values) + 1, dtype=np.float64) ** exponent  # integral of t^gamma up to each step
    weights = np.diff(ends) / ends[-1]
    assert run(EMAConfig(kind="power", std=std), values) == pytest.approx(float(weights @ values), rel=1e-12)


def test_the_warmup_average_is_the_explicit_recursion() -> None:
    values, average = [3.0, -1.0, 4.0], 100.0
    for n, value in enumerate(values):
        decay = min(0.15, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * value
    assert run(EMAConfig(decay=0.15), values) == pytest.approx(average, rel=1e-12)


def test_the_power_average_forgets_the_random_start() -> None:
    assert run(EMAConfig(kind="power"), [1.0], start=1e6) == 1.0


@pytest.mark.parametrize("kind", ["warmup", "power", "none"])
def test_the_average_of_a_constant_is_the_constant(kind: str) -> None:
    config = EMAConfig.model_validate({"kind": kind})
    assert run(config, [2.5] * 20, start=2.5) == 2.5


def test_no_average_is_the_newest_value() -> None:
    assert run(EMAConfig(kind="none"), [1.0, 2.0, 3.0]) == 3.0


def test_running_statistics_are_averaged_like_weights_and_counters_are_copied() -> None:
    net = Net()
    ema = EMA(net, EMAConfig(decay=0.05))
    for value in (4.0, 8.0):
        with torch.no_grad():
            net.weight.fill_(value)
        net.get_buffer("mean").fill_(value)
        net.get_buffer("count").add_(17)
        ema.update()
    assert float(ema.average.get_parameter("weight")[0]) == pytest.approx(0.05 * 0.95 * 4 + 0.95 * 8)
    assert float(ema.average.get_buffer("mean")[0]) == pytest.approx(0.05 * 0.95 * 4 + 0.95 * 8)
    assert int(ema.average.get_buffer("count")) == 34


def test_the_average_is_frozen_and_in_evaluation_mode() -> None:
    net = Net()
    ema = EMA(net, EMAConfig())
    assert not ema.average.training
    assert not any(p.requires_grad for p in ema.average.parameters())
    assert net.weight.requires_grad


def test_an_average_goes_on_from_its_state_as_if_never_stopped() -> None:
    config, net = EMAConfig(kind="power"), Net()
    ema = EMA(net, config)
    for value in range(5):
        with torch.no_grad():
            net.weight.fill_(float(value))
        ema.update()
    file = io.BytesIO()
    torch.save(ema.state_dict(), file)
    file.seek(0)
    other_net = copy.deepcopy(net)
    other = EMA(other_net, config)
    other.load_state_dict(torch.load(file, weights_only=True))
    for module, average in ((net, ema), (other_net, other)):
        with torch.no_grad():
            module.weight.fill_(-7.0)
        average.update()
    assert other.updates == ema.updates == 6
    assert torch.equal(other.average.get_parameter("weight"), ema.average.get_parameter("weight"))
