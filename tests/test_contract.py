"""One contract, kept by every domain that is built in (core/interfaces.py)."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass, replace
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rdkit import Chem
from torch import Tensor, nn

from core.errors import DataError, RequestError
from core.interfaces import Dataset, Denoiser, DiscreteEncoder, Domain, Geometry, PriorNet
from core.latents import LatentSpace, keep_all
from core.pipeline import Generated, Pipeline
from core.registry import GROUP, domain_names, get_domain
from core.spaces import latent_space
from core.training.stage import DenoiserStage, PriorStage, Stage
from core.types import Latents
from domains.docking.write import pose_positions
from domains.images.write import to_bytes
from tests.support import VARIANTS, streams, tiny_config

SIZE = 4
BUILT_IN = {e.name for e in entry_points(group=GROUP) if e.dist is not None and e.dist.name == "disco-diff"}
ALL = list(VARIANTS)
LATENT = [name for name in ALL if not name.endswith("plain")]
FLAT = [name for name in ALL if not name.startswith("docking")]
DISCRETE = [name for name in LATENT if not name.endswith("gaussian")]


def stirred(module: nn.Module) -> nn.Module:
    """The module with noise on all weights: no branch is left at its zero start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module


def tensors(value: Any) -> Iterator[Tensor]:
    """All float tensors of a state, however a domain builds it."""
    if isinstance(value, Tensor) and value.is_floating_point():
        yield value
    parts = vars(value) if is_dataclass(value) else dict(enumerate(value)) if isinstance(value, list) else value
    for key in sorted(parts) if isinstance(parts, Mapping) else ():
        yield from tensors(parts[key])


def assert_same(first: Any, second: Any, tolerance: float = 0.0) -> None:
    pairs = list(zip(tensors(first), tensors(second), strict=True))
    assert pairs
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


class Case:
    """One variant of one domain, untrained."""

    def __init__(self, name: str, *overrides: str) -> None:
        config = tiny_config(name, overrides)
        self.domain: Domain = get_domain(config.domain)(config)
        train = self.domain.dataset("train")
        self.batch = train.load([index % len(train) for index in range(3, 3 + SIZE)], range(SIZE))
        self.geometry: Geometry[Any] = self.domain.geometry()
        self.noisy = self.geometry.corrupt(self.batch.clean, self.times(0.5), streams(SIZE)).state
        torch.manual_seed(0)
        self.pipeline = Pipeline(self.domain, {n: stirred(build()) for n, build in self.domain.parts().items()})

    @property
    def space(self) -> LatentSpace:
        return latent_space(self.domain.config.latents)

    @cached_property
    def generated(self) -> Generated:
        return self.pipeline.generate(count=SIZE, steps=3)

    def times(self, level: float) -> Tensor:
        return self.geometry.time_at(torch.full((SIZE,), level))

    def latents(self) -> Latents:
        return keep_all(self.space.extract(self.pipeline.networks["encoder"](self.batch), streams(SIZE)))


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {name: Case(name) for name in ALL}


@pytest.fixture
def case(cases: dict[str, Case], name: str) -> Case:
    return cases[name]


everywhere = pytest.mark.parametrize("name", ALL)
flat_ones = pytest.mark.parametrize("name", FLAT)
with_latents = pytest.mark.parametrize("name", LATENT)
with_codes = pytest.mark.parametrize("name", DISCRETE)


def test_every_built_in_domain_loads_and_has_a_tiny_configuration_here() -> None:
    assert {"toy", "images", "docking"} <= BUILT_IN <= set(domain_names())
    assert {base for base, _ in VARIANTS.values()} == BUILT_IN
    assert {get_domain(name).name for name in BUILT_IN} == BUILT_IN


@everywhere
def test_data_is_a_dataset_with_a_stable_hash(case: Case) -> None:
    train, again, val = (case.domain.dataset(split) for split in ("train", "train", "val"))
    assert isinstance(train, Dataset)
    assert min(len(train), len(val)) > 0
    assert train.content_hash == again.content_hash != val.content_hash
    with pytest.raises(DataError, match="nope"):
        case.domain.dataset("nope")


@with_latents
def test_the_encoder_gives_logits_per_latent_with_its_mask(case: Case) -> None:
    encoder = case.domain.encoder()
    assert isinstance(encoder, DiscreteEncoder)
    logits = encoder(case.batch)
    width = case.space.encoder_width if not case.space.discrete else case.space.codebook(case.batch)
    shape = (SIZE, case.space.count, width)
    exists = torch.ones(shape[0], shape[2], dtype=torch.bool) if logits.mask is None else logits.mask
    assert logits.values.shape == shape
    assert exists.shape == (shape[0], shape[2])
    assert exists.any(1).all()
    assert torch.equal(torch.isfinite(logits.masked), exists[:, None].expand(shape))


@everywhere
def test_the_score_has_the_fields_and_shapes_of_a_tangent(case: Case) -> None:
    denoiser = case.pipeline.networks["denoiser"]
    assert isinstance(denoiser, Denoiser)
    latents = case.latents() if "encoder" in case.pipeline.networks else None
    score = denoiser(case.noisy, torch.full((SIZE,), 0.5), latents, case.batch)
    like = case.geometry.draw(case.noisy, streams(SIZE))
    assert {k: x.shape for k, x in score.items() if torch.isfinite(x).all()} == {k: x.shape for k, x in like.items()}


@everywhere
def test_the_losses_are_one_finite_positive_number_per_sample(case: Case) -> None:
    stages: list[Stage] = [DenoiserStage(case.domain)]
    if case.domain.config.latents.kind != "none":
        stages.append(PriorStage(case.domain, {"encoder": case.domain.encoder(), "denoiser": case.domain.denoiser()}))
    for stage in stages:
        loss = stage(case.batch, streams(SIZE))["loss"]
        assert loss.shape == (SIZE,)
        assert torch.isfinite(loss).all()
        assert (loss > 0).all()


@with_latents
def test_the_gradient_of_denoising_reaches_the_encoder(name: str) -> None:
    case = Case(name, "latents.drop=0", "latents.kl_weight=0")
    stage = DenoiserStage(case.domain)
    stirred(stage.denoiser)
    stage(case.batch, streams(SIZE))["loss"].mean().backward()
    assert stage.encoder is not None
    weights = [p for name, p in stage.encoder.named_parameters() if name.endswith("weight")]
    assert weights
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in weights)


@with_codes
def test_the_prior_is_causal(case: Case) -> None:
    prior = stirred(case.domain.prior()).eval()
    assert isinstance(prior, PriorNet)
    codes = case.latents().codes
    whole = prior(case.batch, codes).masked
    assert whole.shape[1] == case.space.count
    for slot in range(case.space.count):
        changed = codes.clone()
        changed[:, slot:] = (changed[:, slot:] + 1) % case.space.codebook(case.batch)
        other = prior(case.batch, changed).masked
        torch.testing.assert_close(other[:, : slot + 1], whole[:, : slot + 1])
        if slot + 1 < case.space.count:
            assert not torch.allclose(other[:, slot + 1 :], whole[:, slot + 1 :])
        torch.testing.assert_close(prior(case.batch, codes[:, :slot]).masked[:, slot], whole[:, slot])


@with_latents
def test_latents_matter_where_kept_and_not_where_dropped(case: Case) -> None:
    denoiser, level = case.pipeline.networks["denoiser"], torch.full((SIZE,), 0.5)
    first = case.latents()
    second = replace(first, values=first.values.roll(1, dims=-1))
    keep = torch.tensor([True, False] * (SIZE // 2))
    one, other = (denoiser(case.noisy, level, replace(z, keep=keep), case.batch) for z in (first, second))
    for name, x in one.items():
        assert torch.equal(x[~keep], other[name][~keep])
        assert (x[keep] != other[name][keep]).flatten(1).any(1).all()


@everywhere
def test_moving_by_nothing_stays_and_by_something_does_not(case: Case) -> None:
    tangent = case.geometry.draw(case.noisy, streams(SIZE))
    nothing = {k: torch.zeros_like(x) for k, x in tangent.items()}
    # On curved spaces a step of zero is computed like any other, to the rounding of float32 coordinates.
    tolerance = 0.0 if case.geometry.flat else 1e-6
    assert_same(case.geometry.retract(case.noisy, nothing), case.noisy, tolerance)
    moved = case.geometry.retract(case.noisy, tangent)
    assert not any(torch.equal(a, b) for a, b in zip(tensors(moved), tensors(case.noisy), strict=True))


@pytest.mark.parametrize("path", ["edm", "vp", "ve"])
@flat_ones
def test_canonical_and_physical_states_are_inverse(name: str, path: str) -> None:
    case = Case(name, f"model.noise.path={path}")
    for level in (0.05, 0.5, 5.0):
        t = case.times(level)
        there = case.geometry.physical(case.noisy, t)
        assert_same(case.geometry.canonical(there, t), case.noisy, 1e-5)
        assert_same(case.geometry.physical(case.geometry.canonical(there, t), t), there, 1e-5)


@everywhere
def test_noise_levels_and_times_are_inverse_and_increase_together(case: Case) -> None:
    levels = torch.tensor([0.01, 0.1, 0.5, 1.0], dtype=torch.float64)
    times = case.geometry.time_at(levels)
    torch.testing.assert_close(case.geometry.noise_level(times), levels)
    assert (times.diff() > 0).all()


@everywhere
def test_states_are_joined_and_tangents_split_again(case: Case) -> None:
    joined = case.geometry.concatenate([case.noisy, case.noisy])
    tangent = case.geometry.draw(joined, streams(2 * SIZE))
    parts = case.geometry.split(tangent, 2)
    assert len(parts) == 2
    moved = case.geometry.retract(joined, tangent)
    assert_same(moved, case.geometry.concatenate([case.geometry.retract(case.noisy, part) for part in parts]), 1e-6)


@everywhere
def test_corruption_has_a_finite_target_and_a_positive_weight(case: Case) -> None:
    corrupted = case.geometry.corrupt(case.batch.clean, case.times(0.5), streams(SIZE))
    assert set(corrupted.target) == set(corrupted.weight)
    assert all(torch.isfinite(x).all() for x in tensors(corrupted))
    # a weight of zero belongs to what only pads the batch
    assert all((x >= 0).all() and (x > 0).any() for x in corrupted.weight.values())


@everywhere
def test_training_times_are_fixed_by_the_stream_of_each_sample(case: Case) -> None:
    times = case.domain.training_times(streams(SIZE))
    assert times.shape == (SIZE,)
    assert (torch.isfinite(times) & (times > 0)).all()
    assert torch.equal(case.domain.training_times(streams(2)), times[:2])


@pytest.mark.parametrize("steps", [1, 2, 7])
@everywhere
def test_sampling_times_decrease_to_a_noise_free_end(case: Case, steps: int) -> None:
    times = case.domain.sampling_times(steps)
    assert times.shape == (steps + 1,)
    assert times.dtype == torch.float64
    assert (times.diff() < 0).all()
    assert float(case.geometry.noise_level(times[-1:])[0]) == pytest.approx(0.0, abs=1e-6)


@everywhere
def test_a_sample_is_the_same_in_a_batch_of_one_and_of_four(case: Case) -> None:
    alone = case.pipeline.generate(count=SIZE, steps=3, batch_size=1)
    assert_same([alone.state, alone.latents], [case.generated.state, case.generated.latents], 1e-4)


def read(paths: list[Path]) -> tuple[Tensor, list[int]]:
    """Samples and their numbers as they would be read elsewhere: from one NumPy archive, or from pictures."""
    if paths[0].suffix == ".npz":
        arrays = np.load(paths[0])
        return torch.from_numpy(arrays["x"]), arrays["id"].tolist()
    if paths[0].suffix == ".sdf":
        poses = [mol for path in paths for mol in Chem.SDMolSupplier(str(path))]
        places = [torch.from_numpy(mol.GetConformer().GetPositions()) for mol in poses]
        return torch.cat(places), [int(mol.GetProp("sample")) for mol in poses]
    pictures = sorted(path for folder in paths if folder.is_dir() for path in folder.glob("*.png"))
    return torch.stack([torch.from_numpy(np.array(Image.open(p)))[None] for p in pictures]), [
        int(p.stem) for p in pictures
    ]


@everywhere
def test_what_is_written_can_be_read_again(case: Case, tmp_path: Path) -> None:
    result = case.generated
    paths = case.domain.write(result, tmp_path / "new" / "folder")
    assert all(path.exists() and tmp_path in path.parents for path in paths)
    values, ids = read(paths)
    numbers = result.batch.ids.tolist()
    assert sorted(ids) == sorted(numbers)  # docking sorts poses by their confidence
    if paths[0].suffix == ".sdf":  # four decimals, in the frame of the protein
        places = [pose_positions(result.state, result.batch, numbers.index(number)) for number in ids]
        np.testing.assert_allclose(values.numpy(), np.concatenate(places), atol=6e-5)
    else:
        assert ids == numbers
        assert torch.equal(values, result.state["x"] if values.is_floating_point() else to_bytes(result.state["x"]))


@everywhere
def test_figures_of_merit_are_finite_numbers_with_names(case: Case) -> None:
    result = case.pipeline.generate(count=16, steps=2)
    row = case.domain.evaluate(result.state, result.batch)
    assert len(row) > 0
    assert all(isinstance(value, float) and math.isfinite(value) for value in row.values())


@everywhere
def test_a_request_has_the_asked_for_numbers_and_nothing_unknown(case: Case) -> None:
    assert case.domain.request(range(5, 8)).ids.tolist() == [5, 6, 7]
    with pytest.raises(RequestError, match="colour"):
        case.domain.request(range(2), colour="red")
