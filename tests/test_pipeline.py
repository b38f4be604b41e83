"""The Python API: what a request fixes, and what a model refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.checkpoint import read_manifest
from core.errors import CheckpointError, ConfigError, RequestError
from core.guidance import Guidance
from core.pipeline import Pipeline, Request
from core.prior import PriorOptions
from core.registry import get_domain
from core.samplers import SAMPLERS, Churn, Euler, Heun, Mixed, Sampler, Step, make_sampler
from tests.support import VARIANTS, tiny_config

Trained = Callable[[str], Path]
LATENT = [name for name in VARIANTS if not name.endswith("plain") and not name.startswith("docking")]


def load(trained: Trained, name: str, *overrides: str) -> Pipeline:
    return Pipeline.from_pretrained(trained(name), "cpu", overrides)


def x(pipeline: Pipeline, **changes: Any) -> Tensor:
    values: Tensor = pipeline.generate(**changes).state["x"]
    return values


@pytest.mark.parametrize("name", ["toy", "toy-plain", "images"])
def test_a_sample_is_the_same_whatever_the_batch_size_and_count(trained: Trained, name: str) -> None:
    pipeline = load(trained, name)
    whole = x(pipeline, count=6)
    assert x(pipeline, count=6).equal(whole)
    torch.testing.assert_close(x(pipeline, count=6, batch_size=1), whole, rtol=0, atol=1e-4)
    torch.testing.assert_close(x(pipeline, count=6, batch_size=4), whole, rtol=0, atol=1e-4)
    torch.testing.assert_close(x(pipeline, count=2), whole[:2], rtol=0, atol=1e-4)
    torch.testing.assert_close(x(pipeline, count=3, first=3), whole[3:], rtol=0, atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_sampler_lets_the_batch_change_a_sample(trained: Trained, sampler: str) -> None:
    pipeline = load(trained, "toy")
    chosen = make_sampler(sampler)
    whole = x(pipeline, count=4, sampler=chosen)
    assert torch.isfinite(whole).all()
    torch.testing.assert_close(x(pipeline, count=1, first=3, sampler=chosen), whole[3:], rtol=0, atol=1e-4)


def test_samples_numbers_and_seeds_are_all_different(trained: Trained) -> None:
    pipeline = load(trained, "toy")
    samples = torch.cat([x(pipeline, count=4), x(pipeline, count=4, seed=1)])
    assert len(samples.unique(dim=0)) == 8


def test_a_result_says_what_it_is(trained: Trained) -> None:
    result = load(trained, "images").generate(count=3, first=8)
    assert result.state["x"].shape == (3, 1, 8, 8)
    assert result.batch.ids.tolist() == [8, 9, 10]
    assert result.batch.label is not None
    assert result.batch.label.tolist() == [8, 9, 0]
    assert result.latents is not None
    assert result.latents.keep.all()
    assert result.nfe == 2 * 4 - 1
    assert load(trained, "toy-plain").generate().latents is None


def test_steps_and_sampler_set_the_number_of_evaluations(trained: Trained) -> None:
    pipeline = load(trained, "toy")
    assert pipeline.generate().nfe == 2 * 8 - 1
    assert pipeline.generate(steps=3).nfe == 2 * 3 - 1
    assert pipeline.generate(steps=5, sampler=Euler()).nfe == 5
    assert pipeline.generate(steps=5, sampler=Euler(), guidance=Guidance(1.0)).nfe == 10


def test_a_stochastic_sampler_is_not_the_deterministic_one(trained: Trained) -> None:
    pipeline = load(trained, "toy")
    assert not x(pipeline, count=4, sampler=Churn()).equal(x(pipeline, count=4))


def test_the_defaults_come_from_the_configuration(trained: Trained) -> None:
    changed = load(trained, "toy", "sampling.sampler=euler", "sampling.steps=5", "sampling.guidance=0.5")
    asked = load(trained, "toy").generate(count=3, sampler=Euler(), steps=5, guidance=Guidance(0.5))
    result = changed.generate(count=3)
    assert result.nfe == asked.nfe == 10
    assert result.state["x"].equal(asked.state["x"])


def test_the_callback_sees_every_step_of_every_batch(trained: Trained) -> None:
    steps: list[Step] = []
    load(trained, "toy").generate(Request(count=3, batch_size=2, steps=4), steps.append)
    assert [step.index for step in steps] == [0, 1, 2, 3] * 2
    assert [len(step.state["x"]) for step in steps] == [2] * 4 + [1] * 4


def test_given_codes_are_the_latents(trained: Trained) -> None:
    pipeline = load(trained, "images")
    result = pipeline.generate(count=2, codes=torch.tensor([3, 0, 2]))
    assert result.latents is not None
    assert result.latents.codes.tolist() == [[3, 0, 2]] * 2
    per_sample = pipeline.generate(count=2, codes=torch.tensor([[3, 0, 2], [1, 1, 1]])).latents
    assert per_sample is not None
    assert per_sample.codes.tolist() == [[3, 0, 2], [1, 1, 1]]


def test_the_codes_of_a_sample_give_that_sample_again(trained: Trained) -> None:
    pipeline = load(trained, "images")
    result = pipeline.generate(count=3)
    assert result.latents is not None
    assert x(pipeline, count=3, codes=result.latents.codes).equal(result.state["x"])
    other = (result.latents.codes + 1) % 4
    assert not x(pipeline, count=3, codes=other).equal(result.state["x"])


@pytest.mark.parametrize("name", LATENT)
def test_shared_latents_are_those_of_the_first_sample(trained: Trained, name: str) -> None:
    pipeline = load(trained, name)
    shared, own = pipeline.generate(count=3, share_latents=True), pipeline.generate(count=3)
    assert shared.latents is not None
    assert own.latents is not None
    assert all(row.equal(shared.latents.values[0]) for row in shared.latents.values)
    torch.testing.assert_close(shared.latents.values[0], own.latents.values[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(shared.state["x"][0], own.state["x"][0], rtol=0, atol=1e-4)
    assert len(shared.state["x"].flatten(1).unique(dim=0)) == 3


def test_latents_of_the_gaussian_model_are_numbers_and_not_one_hot(trained: Trained) -> None:
    latents = load(trained, "toy-gaussian").generate(count=5).latents
    assert latents is not None
    assert latents.values.shape == (5, 1, 8)
    assert len(latents.values.unique()) == 40


def test_prior_options_reach_the_prior(trained: Trained) -> None:
    pipeline = load(trained, "toy")
    greedy = pipeline.generate(count=6, prior=PriorOptions(top_p=1e-6)).latents
    assert greedy is not None
    assert len(greedy.codes.unique()) == 1
    fixed = pipeline.generate(count=2, prior=PriorOptions(fixed=torch.tensor([[5], [-1]]))).latents
    assert fixed is not None
    assert fixed.codes[0, 0] == 5


def test_a_class_may_be_one_for_all_or_one_per_sample(trained: Trained) -> None:
    pipeline = load(trained, "images")
    for label, expected in ((7, [7, 7]), ([2, 9], [2, 9]), (None, [0, 1])):
        batch = pipeline.generate(count=2, label=label).batch
        assert batch.label is not None
        assert batch.label.tolist() == expected


def test_guidance_changes_samples_and_none_does_not(trained: Trained) -> None:
    pipeline = load(trained, "images")
    plain = x(pipeline, count=2)
    assert x(pipeline, count=2, guidance=Guidance()).equal(plain)
    assert not x(pipeline, count=2, guidance=Guidance(latents=2.0)).equal(plain)
    assert not x(pipeline, count=2, guidance=Guidance(classes=2.0)).equal(plain)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "code too large": ("images", {"codes": torch.tensor([0, 4, 0])}, "3 numbers from 0 to 3"),
    "negative code": ("images", {"codes": torch.tensor([0, -2, 0])}, "3 numbers from 0 to 3"),
    "too few codes": ("images", {"codes": torch.tensor([0, 1])}, "3 numbers from 0 to 3"),
    "codes for two of three": ("images", {"count": 3, "codes": torch.zeros(2, 3, dtype=torch.int64)}, "codes"),
    "codes, plain": ("toy-plain", {"codes": torch.tensor([1])}, "no latents"),
    "codes, gaussian": ("toy-gaussian", {"codes": torch.tensor([1])}, "discrete"),
    "shared, plain": ("toy-plain", {"share_latents": True}, "no latents"),
    "class too large": ("images", {"label": 10}, "class 10 does not exist: this model has classes 0 to 9"),
    "negative class": ("images", {"label": -1}, "class -1 does not exist"),
    "one class too few": ("images", {"count": 3, "label": [1, 2]}, "class"),
    "class, toy": ("toy", {"label": 0}, "no classes"),
    "guidance, plain": ("toy-plain", {"guidance": Guidance(1.0)}, "no latents"),
    "class guidance, toy": ("toy", {"guidance": Guidance(classes=1.0)}, "without dropping classes"),
    "top-p, gaussian": ("toy-gaussian", {"prior": PriorOptions(top_p=0.5)}, "discrete latents"),
    "no samples": ("toy", {"count": 0}, "cannot generate 0 samples"),
    "empty batches": ("toy", {"batch_size": 0}, "batches of 0"),
    "no steps": ("toy", {"steps": 0}, "step"),
    "steps below zero": ("toy", {"steps": -1}, "step"),
}


@pytest.mark.parametrize(("name", "changes", "words"), REFUSED.values(), ids=REFUSED)
def test_what_a_model_cannot_do_is_refused(trained: Trained, name: str, changes: dict[str, Any], words: str) -> None:
    pipeline = load(trained, name)
    with pytest.raises(RequestError, match=words):
        pipeline.generate(**changes)


def test_class_guidance_needs_a_model_trained_with_dropped_classes(trained: Trained) -> None:
    pipeline = load(trained, "images", "model.class_drop=0")
    with pytest.raises(RequestError, match="trained without dropping classes"):
        pipeline.generate(guidance=Guidance(classes=1.0))


@pytest.mark.parametrize("name", ["toy", "toy-plain", "images", "images-gaussian"])
def test_a_saved_model_gives_the_same_samples(trained: Trained, tmp_path: Path, name: str) -> None:
    pipeline = load(trained, name)
    pipeline.save_pretrained(tmp_path)
    again = Pipeline.from_pretrained(str(tmp_path), "cpu")
    assert x(again, count=3).equal(x(pipeline, count=3))
    assert read_manifest(tmp_path).weights == read_manifest(trained(name) / "model").weights


def test_a_saved_copy_still_names_its_data(trained: Trained, tmp_path: Path) -> None:
    load(trained, "toy").save_pretrained(tmp_path)
    assert read_manifest(tmp_path).data_hash == read_manifest(trained("toy") / "model").data_hash != ""


def test_a_model_without_prior_can_still_be_given_codes(trained: Trained) -> None:
    full = load(trained, "toy")
    pipeline = Pipeline(full.domain, {name: full.networks[name] for name in ("denoiser", "encoder")})
    with pytest.raises(RequestError, match=r"no prior yet.*--stage prior"):
        pipeline.generate()
    assert torch.isfinite(x(pipeline, codes=torch.tensor([2]))).all()


@pytest.mark.parametrize("name", LATENT)
def test_encoding_reads_latents_from_real_samples(trained: Trained, name: str) -> None:
    pipeline = load(trained, name)
    batch = pipeline.domain.dataset("val").load(range(5), range(5))
    latents = pipeline.encode(batch)
    count, width = pipeline.config.latents.count, pipeline.config.latents.codes
    assert latents.values.shape == (5, count, width)
    assert latents.keep.all()
    assert pipeline.encode(batch).values.equal(latents.values)


def test_encoding_needs_latents(trained: Trained) -> None:
    pipeline = load(trained, "toy-plain")
    with pytest.raises(RequestError, match="no encoder"):
        pipeline.encode(pipeline.domain.dataset("val").load(range(2), range(2)))


def test_overrides_change_sampling(trained: Trained) -> None:
    changed = load(trained, "toy", "model.noise.rho=5")
    assert not changed.domain.sampling_times(8).equal(load(trained, "toy").domain.sampling_times(8))
    assert not x(changed, count=2).equal(x(load(trained, "toy"), count=2))


@pytest.mark.parametrize(
    ("override", "error", "words"),
    [
        ("model.noise.roh=5", ConfigError, "unknown key 'model.noise.roh'; did you mean 'rho'"),
        ("sampling.sampler", ConfigError, "key.sub=value"),
        ("model.width=8", CheckpointError, "does not fit the network of its manifest"),
    ],
)
def test_wrong_overrides_are_named(trained: Trained, override: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        load(trained, "toy", override)


def test_generating_leaves_the_global_generator_alone(trained: Trained) -> None:
    pipeline = load(trained, "images")
    before = torch.random.get_rng_state()
    pipeline.generate(count=2, sampler=Churn())
    assert torch.random.get_rng_state().equal(before)


def test_codes_left_free_are_drawn_given_the_fixed_ones_in_every_piece(trained: Trained) -> None:
    pipeline = load(trained, "images")
    for codes in ([3, -1, -1], [-1, 2, -1]):
        result = pipeline.generate(count=6, codes=torch.tensor(codes), steps=1)
        pieces = pipeline.generate(count=6, codes=torch.tensor(codes), steps=1, batch_size=4)
        assert result.latents is not None
        assert pieces.latents is not None
        place = next(i for i, code in enumerate(codes) if code >= 0)
        assert (result.latents.codes[:, place] == codes[place]).all()
        assert len(result.latents.codes.unique(dim=0)) > 1
        assert pieces.latents.codes.equal(result.latents.codes)


def test_fixed_codes_may_differ_by_sample(trained: Trained) -> None:
    fixed = torch.tensor([[0, -1, -1], [1, 2, -1], [-1, -1, -1]])
    result = load(trained, "images").generate(count=3, steps=1, prior=PriorOptions(fixed=fixed), batch_size=2)
    assert result.latents is not None
    assert result.latents.codes[fixed >= 0].tolist() == [0, 1, 2]


def test_restart_by_name_makes_623_evaluations(trained: Trained) -> None:
    pipeline = load(trained, "toy-plain", "model.noise.sigma_max=80")
    assert pipeline.generate(count=1, sampler=make_sampler("restart-623")).nfe == 623


def test_an_unknown_field_of_a_request_is_named(trained: Trained) -> None:
    with pytest.raises(RequestError, match="no 'seeds'"):
        load(trained, "toy").generate(seeds=3)


def test_guidance_can_be_set_with_its_interval(trained: Trained) -> None:
    pipeline = load(trained, "images", "sampling.guidance=1.0", "sampling.guidance_interval=[1.0, 5.0]")
    levels = pipeline.domain.sampling_times(4)[:-1]
    doubled = int(((levels > 1) & (levels <= 5)).sum())
    assert doubled > 0
    assert pipeline.generate(count=1, sampler=Euler()).nfe == 4 + doubled


def test_another_model_takes_over_at_a_noise_level(trained: Trained) -> None:
    pipeline, plain = load(trained, "toy"), load(trained, "toy-plain")
    mixed = Mixed(threshold=0.5, high=Heun(), low=Euler())
    result = pipeline.generate(count=3, seed=2, steps=6, sampler=mixed, low_model=plain, batch_size=2)
    batch = pipeline.domain.request(range(3)).to(pipeline.device)
    state, times, streams = pipeline.start(batch, 6, 2)
    place = int((pipeline.geometry.noise_level(times) <= 0.5).nonzero()[0])
    assert 0 < place < 6
    high = pipeline.field(batch, result.latents)
    state = Heun().run(high, state, times[: place + 1], streams)
    low = plain.field(batch, None)
    state = Euler().run(low, state, times[place:], streams)
    torch.testing.assert_close(result.state["x"], state["x"], rtol=1e-4, atol=1e-5)
    assert result.nfe == high.nfe + low.nfe
    assert not x(pipeline, count=3, seed=2, steps=6, sampler=mixed).equal(result.state["x"])


@pytest.mark.parametrize(
    ("name", "overrides", "sampler", "words"),
    [
        ("toy-plain", (), Heun(), "only the sampler 'mixed'"),
        ("toy", (), Mixed(), "one of 'toy' without latents"),
        ("images-plain", (), Mixed(), "one of 'toy' without latents"),
        ("toy-plain", ("model.noise.path=vp",), Mixed(), "on the same noise path, and"),
        ("toy-plain", ("model.noise.dimensions=8",), Mixed(), "on the same noise path, and"),
    ],
)
def test_a_model_that_cannot_take_over_is_refused(
    trained: Trained, name: str, overrides: tuple[str, ...], sampler: Sampler, words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        load(trained, "toy").generate(sampler=sampler, low_model=load(trained, name, *overrides))


@pytest.mark.parametrize(
    ("setting", "same"),
    [("model.resolution=16", False), ("model.classes=5", False), ("model.noise.sigma_data=0.4", True)],
)
def test_a_process_is_size_classes_and_path(setting: str, same: bool) -> None:
    ours, theirs = (get_domain("images")(tiny_config("images", overrides)) for overrides in ([], [setting]))
    assert ours.same_process(theirs) == same
