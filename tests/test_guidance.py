"""Guidance: the formula, one batched call, no cost where it does not act."""

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from core.errors import RequestError
from core.geometry import Euclidean
from core.guidance import Guidance, ScoreField
from core.latents import from_codes
from core.schedules import VPPath
from core.types import Batch, Latents

SIZE, NULL = 3, 7
LATENTS = from_codes(torch.tensor([[1], [3], [2]]), 4)
BATCH = Batch(torch.arange(SIZE), label=torch.tensor([0, 5, 2]))
STATE = {"x": torch.tensor([[1.0, -2.0], [0.5, 3.0], [-1.0, 0.0]], dtype=torch.float64)}
T = torch.tensor(1.5, dtype=torch.float64)


class Recorder:
    """A score in which every input leaves its own trace; keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Mapping[str, Tensor], Tensor, Latents | None, Batch]] = []

    def __call__(
        self, state: Mapping[str, Tensor], level: Tensor, latents: Latents | None, batch: Batch
    ) -> dict[str, Tensor]:
        self.calls.append((state, level, latents, batch))
        score = -state["x"] / (1 + level[:, None]) + 0.01 * batch.ids[:, None]
        if latents is not None:
            score = score + torch.where(latents.keep[:, None], latents.codes + 1, 0)
        if batch.label is not None:
            score = score + 10 * batch.label[:, None]
        return {"x": score}


def field(recorder: Recorder, guidance: Guidance = Guidance(), latents: Latents | None = LATENTS) -> ScoreField:
    return ScoreField(recorder, Euclidean({"x": (2,)}), BATCH, latents, guidance, NULL)


def score_of(latents: Latents | None, label: Tensor | None) -> Tensor:
    """One branch by a call of its own."""
    return Recorder()(STATE, T.expand(SIZE), latents, BATCH.with_label(label))["x"]


CONDITIONAL = score_of(LATENTS, BATCH.label)
NO_LATENTS = score_of(LATENTS.dropped(), BATCH.label)
NO_CLASS = score_of(LATENTS, torch.full((SIZE,), NULL))


@pytest.mark.parametrize("latents", [LATENTS, None])
def test_without_guidance_the_field_is_the_bare_denoiser(latents: Latents | None) -> None:
    recorder = Recorder()
    f = field(recorder, latents=latents)
    assert torch.equal(f.score(STATE, T)["x"], score_of(latents, BATCH.label))
    ((state, level, seen, batch),) = recorder.calls
    assert f.nfe == 1
    assert len(state["x"]) == len(level) == SIZE
    assert seen is latents
    assert batch is BATCH


@pytest.mark.parametrize("w", [0.5, 1.0, 4.0, -0.3])
def test_guidance_on_latents_pushes_away_from_dropped_latents(w: float) -> None:
    guided = field(Recorder(), Guidance(latents=w)).score(STATE, T)["x"]
    torch.testing.assert_close(guided, CONDITIONAL + w * (CONDITIONAL - NO_LATENTS))


@pytest.mark.parametrize("w", [0.5, 2.0])
def test_guidance_on_classes_pushes_away_from_the_null_class(w: float) -> None:
    guided = field(Recorder(), Guidance(classes=w)).score(STATE, T)["x"]
    torch.testing.assert_close(guided, CONDITIONAL + w * (CONDITIONAL - NO_CLASS))


def test_both_guidances_add_up() -> None:
    guided = field(Recorder(), Guidance(latents=0.5, classes=2.0)).score(STATE, T)["x"]
    expected = CONDITIONAL + 0.5 * (CONDITIONAL - NO_LATENTS) + 2.0 * (CONDITIONAL - NO_CLASS)
    torch.testing.assert_close(guided, expected)


@pytest.mark.parametrize(
    ("guidance", "branches"),
    [(Guidance(latents=1.0), 2), (Guidance(classes=1.0), 2), (Guidance(latents=1.0, classes=1.0), 3)],
)
def test_all_branches_are_evaluated_in_one_call(guidance: Guidance, branches: int) -> None:
    recorder = Recorder()
    f = field(recorder, guidance)
    f.score(STATE, T)
    ((state, level, latents, batch),) = recorder.calls
    assert f.nfe == branches
    assert len(state["x"]) == len(level) == batch.size == branches * SIZE
    assert latents is not None
    assert int((~latents.keep).sum()) == (SIZE if guidance.latents else 0)
    assert int((batch.label == NULL).sum()) == (SIZE if guidance.classes else 0)


def test_guidance_on_classes_works_in_a_model_without_latents() -> None:
    guided = field(Recorder(), Guidance(classes=2.0), latents=None).score(STATE, T)["x"]
    conditional, null = score_of(None, BATCH.label), score_of(None, torch.full((SIZE,), NULL))
    torch.testing.assert_close(guided, conditional + 2 * (conditional - null))


@pytest.mark.parametrize(
    ("w", "expected"), [(1.0, CONDITIONAL), (0.0, NO_LATENTS), (3.0, 3 * CONDITIONAL - 2 * NO_LATENTS)]
)
def test_the_convention_of_the_appendix_interpolates(w: float, expected: Tensor) -> None:
    guided = field(Recorder(), Guidance.from_interpolation(latents=w)).score(STATE, T)["x"]
    torch.testing.assert_close(guided, expected)


def test_both_conventions_differ_by_one() -> None:
    interval = (0.1, 2.0)
    converted = Guidance.from_interpolation(latents=2.5, classes=1.0, interval=interval)
    assert converted == Guidance(latents=1.5, classes=0.0, interval=interval)


@pytest.mark.parametrize(
    ("level", "active"), [(0.5, False), (0.51, True), (2.0, True), (2.01, False), (0.0, False), (80.0, False)]
)
def test_guidance_acts_inside_its_interval_only(level: float, active: bool) -> None:
    recorder = Recorder()
    f = field(recorder, Guidance(latents=1.0, interval=(0.5, 2.0)))
    guided = f.score(STATE, torch.tensor(level, dtype=torch.float64))["x"]
    plain = field(Recorder()).score(STATE, torch.tensor(level, dtype=torch.float64))["x"]
    assert f.nfe == (2 if active else 1)
    assert len(recorder.calls[0][0]["x"]) == f.nfe * SIZE
    assert torch.equal(guided, plain) != active


def test_evaluations_are_counted_over_the_whole_run() -> None:
    f = field(Recorder(), Guidance(latents=1.0, interval=(1.0, math.inf)))
    for level in (3.0, 2.0, 1.0, 0.5):
        f.score(STATE, torch.tensor(level, dtype=torch.float64))
    assert f.nfe == 2 + 2 + 1 + 1


def test_the_denoiser_sees_canonical_states_and_levels_on_a_scaled_path() -> None:
    recorder, path = Recorder(), VPPath()
    t = torch.tensor(0.6, dtype=torch.float64)
    ScoreField(recorder, Euclidean({"x": (2,)}, path), BATCH).score(STATE, t)
    ((state, level, _, _),) = recorder.calls
    torch.testing.assert_close(level, path.sigma(t).expand(SIZE))
    torch.testing.assert_close(state["x"], STATE["x"] / path.scale(t))


def test_velocity_is_the_right_hand_side_of_the_ode() -> None:
    f = field(Recorder(), Guidance(latents=1.0))
    torch.testing.assert_close(f.velocity(STATE, T)["x"], -T * f.score(STATE, T)["x"])


def test_guidance_on_latents_needs_latents() -> None:
    with pytest.raises(RequestError, match="no latents"):
        field(Recorder(), Guidance(latents=1.0), latents=None)


def test_guidance_on_classes_needs_a_null_class() -> None:
    with pytest.raises(RequestError, match="without dropping classes"):
        ScoreField(Recorder(), Euclidean({"x": (2,)}), BATCH, LATENTS, Guidance(classes=1.0))


def test_other_latents_give_the_same_field_otherwise() -> None:
    other = from_codes(torch.tensor([[0], [0], [1]]), 4)
    guidance = Guidance(latents=0.5, classes=2.0)
    switched = field(Recorder(), guidance).with_latents(other).score(STATE, T)["x"]
    torch.testing.assert_close(switched, field(Recorder(), guidance, other).score(STATE, T)["x"])
    assert (switched - field(Recorder(), guidance).score(STATE, T)["x"]).abs().max() > 0.1


def test_samples_do_not_influence_each_other_under_guidance() -> None:
    guidance = Guidance(latents=0.5, classes=2.0)
    together = field(Recorder(), guidance).score(STATE, T)["x"]
    one = torch.tensor([2])
    alone = ScoreField(
        Recorder(),
        Euclidean({"x": (2,)}),
        BATCH.select(one),
        Latents(LATENTS.values[one], LATENTS.keep[one]),
        guidance,
        NULL,
    ).score({"x": STATE["x"][one]}, T)["x"]
    assert torch.equal(together[2:], alone)
