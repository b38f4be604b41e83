"""The training loop in one process: its arithmetic, what it refuses, what it leaves in the run folder."""

import json
import logging
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from core.checkpoint import add_metrics, read_manifest
from core.config import StageConfig
from core.data import TensorDataset
from core.errors import CheckpointError, ConfigError, DataError, TrainingError
from core.files import sha256
from core.interfaces import Dataset
from core.registry import get_domain
from core.training.distributed import World
from core.training.logs import read_jsonl
from core.training.loop import Trainer, TrainingJob, learning_rate
from core.training.plan import parameters
from core.training.run import train
from core.training.stage import DenoiserStage, stage_names
from core.training.state import load_newest
from domains.toy.domain import ToyDomain
from tests.support import tiny_config

ALONE = World(0, 1, torch.device("cpu"))
CPU = torch.device("cpu")
SHORT = ["train.denoiser.steps=4", "train.denoiser.checkpoint_every=2", "latents.kind=none"]


def run(folder: Path, *overrides: str, name: str = "toy", **options: Any) -> Path:
    """Train in ``folder`` from the same initial weights as every other run."""
    torch.manual_seed(0)
    return train(tiny_config(name, overrides), folder, quiet=True, **options)


def job(folder: Path, name: str = "toy-plain", overrides: Sequence[str] = ()) -> TrainingJob:
    """The denoiser stage of a variant, with the same initial weights every time."""
    torch.manual_seed(0)
    config = tiny_config(name, overrides)
    domain = get_domain(config.domain)(config)
    stage = DenoiserStage(domain)
    return TrainingJob(stage, domain.dataset("train"), config.stage("denoiser"), folder, config.seed, ALONE, quiet=True)


def losses(folder: Path, stage: str = "denoiser") -> list[float]:
    return [row["loss"] for row in read_jsonl(folder / f"log-{stage}.jsonl")]


def states(folder: Path, stage: str = "denoiser") -> list[str]:
    return sorted(p.name for p in (folder / "state" / stage).iterdir())


def weights(model: Path, name: str = "denoiser") -> str:
    return sha256(model / f"{name}.safetensors")


@pytest.mark.parametrize("name", ["toy-plain", "images-plain"])
def test_accumulated_micro_batches_make_the_same_update_as_one_batch(tmp_path: Path, name: str) -> None:
    results = []
    for pieces in (1, 4):
        folder = tmp_path / str(pieces)
        trainer = Trainer(job(folder, name, [f"train.denoiser.accumulate={pieces}", "train.denoiser.steps=1"]))
        trainer.run()
        results.append((trainer.stage.state_dict(), read_jsonl(folder / "log-denoiser.jsonl")[0]))
    (one, one_row), (many, many_row) = results
    assert many_row["loss"] == pytest.approx(one_row["loss"], rel=1e-5)
    assert many_row["grad_norm"] == pytest.approx(one_row["grad_norm"], rel=1e-4)
    for key, value in one.items():
        torch.testing.assert_close(many[key], value, rtol=0, atol=1e-5)


def test_the_rate_warms_up_in_a_line() -> None:
    config = StageConfig(lr=0.1, warmup=4, steps=10)
    rates = [learning_rate(config, step) for step in range(6)]
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])


def test_the_cosine_rate_goes_from_the_full_rate_to_zero() -> None:
    config = StageConfig(lr=0.1, decay="cosine", steps=8)
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 4) == pytest.approx(0.05)
    assert learning_rate(config, 2) == pytest.approx(0.05 * (1 + math.sqrt(0.5)))
    assert learning_rate(config, 8) == pytest.approx(0.0, abs=1e-12)


def test_the_log_has_one_whole_json_row_per_step(trained: Callable[[str], Path]) -> None:
    lines = (trained("toy") / "log-denoiser.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert all(set(row) >= {"step", "samples", "loss", "grad_norm", "lr", "seconds"} for row in rows)
    assert [row["samples"] for row in rows] == [16 * step for step in range(1, 13)]
    assert {row["lr"] for row in rows} == {1e-3}
    assert all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows)


def test_logging_every_third_step_logs_the_last_one_too(tmp_path: Path) -> None:
    run(tmp_path, *SHORT, "train.denoiser.log_every=3")
    assert [row["step"] for row in read_jsonl(tmp_path / "log-denoiser.jsonl")] == [3, 4]


def test_only_the_newest_states_are_kept(trained: Callable[[str], Path]) -> None:
    assert states(trained("toy")) == ["state-00000008.pt", "state-00000012.pt"]


@pytest.mark.parametrize(("name", "stages"), [("toy", ["denoiser", "prior"]), ("toy-plain", ["denoiser"])])
def test_the_stages_follow_from_the_latents(name: str, stages: list[str]) -> None:
    config = tiny_config(name)
    assert stage_names(get_domain(config.domain)(config)) == stages


@pytest.mark.parametrize("name", ["toy", "toy-gaussian", "images"])
def test_two_stages_give_denoiser_encoder_and_prior(trained: Callable[[str], Path], name: str) -> None:
    folder = trained(name)
    manifest = read_manifest(folder / "model")
    assert set(manifest.weights) == {"denoiser", "encoder", "prior"}
    config = tiny_config(name)
    assert manifest.data_hash == get_domain(config.domain)(config).dataset("train").content_hash
    assert (folder / "log-prior.jsonl").is_file()


def test_the_model_folder_has_the_averaged_weights(trained: Callable[[str], Path]) -> None:
    state = load_newest(trained("toy") / "state" / "denoiser")
    assert state is not None
    saved = load_file(trained("toy") / "model" / "denoiser.safetensors")
    for key, value in saved.items():
        assert torch.equal(value, state["ema"]["average"][f"denoiser.{key}"])
    assert any(not torch.equal(value, state["stage"][f"denoiser.{key}"]) for key, value in saved.items())


def test_the_prior_stage_leaves_the_encoder_as_it_is(trained: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(trained("toy"), tmp_path, dirs_exist_ok=True)
    before = weights(tmp_path / "model", "encoder"), weights(tmp_path / "model", "denoiser")
    train(tiny_config("toy", ["train.prior.steps=13"]), tmp_path, quiet=True)
    assert (weights(tmp_path / "model", "encoder"), weights(tmp_path / "model", "denoiser")) == before


@pytest.mark.parametrize("name", ["toy", "toy-gaussian", "images", "images-gaussian"])
def test_denoising_alone_trains_the_encoder(tmp_path: Path, name: str) -> None:
    trainer = Trainer(job(tmp_path, name, ["train.denoiser.steps=3", "latents.kl_weight=0", "latents.drop=0"]))
    before = {key: p.detach().clone() for key, p in trainer.stage.named_parameters() if key.startswith("encoder.")}
    trainer.run()
    after = dict(trainer.stage.named_parameters())
    # ``bias`` of a standardised head has no effect on its logits.
    still = [key for key, value in before.items() if torch.equal(after[key], value) and not key.endswith("bias")]
    assert before
    assert still == []


def test_a_loss_that_is_not_finite_stops_and_leaves_the_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(job(tmp_path, overrides=["train.denoiser.steps=10"]))
    forward = DenoiserStage.forward

    def broken(self: DenoiserStage, batch: Any, streams: Any) -> dict[str, Tensor]:
        values = forward(self, batch, streams)
        return {"loss": values["loss"] * math.nan} if trainer.step == 6 else values

    monkeypatch.setattr(DenoiserStage, "forward", broken)
    with pytest.raises(TrainingError, match="loss is nan at step 6") as caught:
        trainer.run()
    assert "train.denoiser.lr" in str(caught.value)
    assert "clip" in str(caught.value)
    assert states(tmp_path) == ["state-00000004.pt"]
    assert all(math.isfinite(loss) for loss in losses(tmp_path))
    monkeypatch.undo()
    again = Trainer(job(tmp_path, overrides=["train.denoiser.steps=10"]))
    assert again.step == 4
    again.run()
    assert len(losses(tmp_path)) == 10


def test_an_absurd_rate_ends_in_a_training_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"stage 'denoiser': the loss is (nan|inf) at step [1-9]"):
        run(tmp_path, "train.denoiser.lr=1e30", name="toy-plain")


@pytest.mark.parametrize(("batch", "pieces"), [(10, 4), (2, 3)])
def test_a_batch_that_cannot_be_split_is_refused(tmp_path: Path, batch: int, pieces: int) -> None:
    overrides = [f"train.denoiser.batch={batch}", f"train.denoiser.accumulate={pieces}"]
    with pytest.raises(ConfigError, match=rf"train\.denoiser\.batch = {batch} cannot be split"):
        Trainer(job(tmp_path, overrides=overrides))


def test_an_empty_training_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="empty"):
        Trainer(replace(job(tmp_path), dataset=TensorDataset({"x": torch.zeros(0, 2)})))


def test_training_again_after_the_end_changes_nothing(trained: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(trained("toy"), tmp_path, dirs_exist_ok=True)
    files = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    before = {path: sha256(path) for path in files}
    train(tiny_config("toy"), tmp_path, quiet=True)
    changed = [path for path in files if path.name != "manifest.json" and sha256(path) != before[path]]
    assert changed == []
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == files


def test_more_steps_continue_a_finished_run(tmp_path: Path) -> None:
    run(tmp_path / "whole", *SHORT, "train.denoiser.steps=8")
    run(tmp_path / "longer", *SHORT)
    first = losses(tmp_path / "longer")
    model = run(tmp_path / "longer", *SHORT, "train.denoiser.steps=8")
    assert losses(tmp_path / "longer") == losses(tmp_path / "whole")
    assert losses(tmp_path / "longer")[:4] == first
    assert weights(model) == weights(tmp_path / "whole" / "model")


def test_the_stages_one_by_one_equal_all_at_once(tmp_path: Path) -> None:
    run(tmp_path / "all")
    run(tmp_path / "single", stage="denoiser")
    run(tmp_path / "single", stage="prior")
    for stage in ("denoiser", "prior"):
        assert losses(tmp_path / "single", stage) == losses(tmp_path / "all", stage)
        assert weights(tmp_path / "single" / "model", stage) == weights(tmp_path / "all" / "model", stage)


def test_a_run_follows_from_its_configuration_alone(tmp_path: Path) -> None:
    for number in range(2):
        torch.manual_seed(number)  # what the process did before must not matter
        train(tiny_config("toy-plain", SHORT), tmp_path / str(number), quiet=True)
    assert losses(tmp_path / "0") == losses(tmp_path / "1")
    assert weights(tmp_path / "0" / "model") == weights(tmp_path / "1" / "model")


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    run(tmp_path / "0", *SHORT)
    run(tmp_path / "1", *SHORT, "seed=1")
    assert set(losses(tmp_path / "0")).isdisjoint(losses(tmp_path / "1"))


@pytest.mark.parametrize(
    ("override", "key"), [("seed=7", "seed"), ("model.width=8", "model.width"), ("train.denoiser.lr=0.5", "lr")]
)
def test_a_folder_of_another_configuration_is_refused_by_key(tmp_path: Path, override: str, key: str) -> None:
    run(tmp_path, *SHORT)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match="holds a run with another configuration") as caught:
        run(tmp_path, *SHORT, override)
    assert key in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_run_that_never_began_leaves_its_folder_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(domain: ToyDomain, split: str) -> Dataset:
        raise DataError("no such file")

    with monkeypatch.context() as broken:
        broken.setattr(ToyDomain, "dataset", missing)
        with pytest.raises(DataError, match="no such file"):
            run(tmp_path / "run", *SHORT)
    run(tmp_path / "run", *SHORT, "seed=7")
    run(tmp_path / "fresh", *SHORT, "seed=7")
    assert losses(tmp_path / "run") == losses(tmp_path / "fresh")


def test_overwriting_starts_anew_and_spares_foreign_files(tmp_path: Path) -> None:
    run(tmp_path / "run", *SHORT)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    run(tmp_path / "run", *SHORT, "seed=7", overwrite=True)
    run(tmp_path / "fresh", *SHORT, "seed=7")
    assert losses(tmp_path / "run") == losses(tmp_path / "fresh")
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


class _Damaged:
    """Samples of which the third batch cannot be read."""

    content_hash = ""

    def __init__(self, intact: Dataset) -> None:
        self.intact = intact

    def __len__(self) -> int:
        return len(self.intact)

    def load(self, indices: Sequence[int] | np.ndarray, ids: Sequence[int] | np.ndarray) -> Any:
        if ids[0] >= 2 * len(ids):
            raise DataError("image 000123.png: cannot be read")
        return self.intact.load(indices, ids)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_loader_process_cannot_read_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    dataset = ToyDomain.dataset
    monkeypatch.setattr(ToyDomain, "dataset", lambda domain, split: _Damaged(dataset(domain, split)))
    with pytest.raises(DataError) as caught:
        run(tmp_path, *SHORT, f"train.denoiser.workers={workers}")
    assert str(caught.value) == "image 000123.png: cannot be read"


def test_parameters_of_what_fits_no_memory_are_counted() -> None:
    assert parameters(lambda: nn.Linear(10**6, 10**6)) == 10**12 + 10**6  # 4 TB
    assert parameters(lambda: nn.Linear(int(torch.tensor(3).item()), 2)) == 8  # its builder looks at a value


def test_loader_processes_change_nothing(tmp_path: Path) -> None:
    for workers in (0, 1):
        run(tmp_path / str(workers), *SHORT, f"train.denoiser.workers={workers}")
    assert losses(tmp_path / "0") == losses(tmp_path / "1")


@pytest.mark.parametrize(("stage", "words"), [("prior", "--stage denoiser first"), ("nonsense", "denoiser, prior")])
def test_a_stage_that_cannot_run_is_refused(tmp_path: Path, stage: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run(tmp_path, stage=stage)


def test_a_prior_on_an_encoder_that_trained_on_starts_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = train(tiny_config("toy"), tmp_path, quiet=True)
    before = dict(read_manifest(model).weights)
    with caplog.at_level(logging.WARNING):
        train(tiny_config("toy", ["train.denoiser.steps=16"]), tmp_path, quiet=True)
    after = read_manifest(model).weights
    assert all(after[name] != before[name] for name in ("denoiser", "encoder", "prior"))
    assert "starting over" in caplog.text
    fresh = read_manifest(
        train(tiny_config("toy", ["train.denoiser.steps=16"]), tmp_path / "fresh", quiet=True)
    ).weights
    assert after["prior"] == fresh["prior"]


def test_a_finished_run_keeps_its_manifest(tmp_path: Path) -> None:
    model = train(tiny_config("toy"), tmp_path, quiet=True)
    add_metrics(model, {"w2": 0.1})
    before = (model / "manifest.json").read_bytes()
    train(tiny_config("toy"), tmp_path, quiet=True)
    assert (model / "manifest.json").read_bytes() == before


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(self: DenoiserStage, batch: Any, streams: Any) -> dict[str, Tensor]:
        first = next(self.parameters())
        # sqrt has an infinite slope at zero, and 0 * inf is NaN: the loss is finite, its gradient is not.
        return {"loss": torch.ones(batch.size) + (first * 0).abs().sqrt().sum() * 0}

    monkeypatch.setattr(DenoiserStage, "forward", poisoned)
    with pytest.raises(TrainingError, match="gradient norm is nan"):
        train(tiny_config("toy-plain"), tmp_path, quiet=True)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_run_killed_between_state_and_model_writes_the_model_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = tiny_config("toy-plain", ["train.denoiser.steps=16"])
    train(tiny_config("toy-plain"), tmp_path, quiet=True)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("core.training.run.update_model", killed)
        with pytest.raises(KeyboardInterrupt):
            train(longer, tmp_path, quiet=True)
    late = train(longer, tmp_path, quiet=True)
    assert weights(late) == weights(train(longer, tmp_path / "fresh", quiet=True))


def test_a_stage_starts_from_another_model_and_adds_what_it_lacks(tmp_path: Path) -> None:
    base = run(tmp_path / "base", *SHORT, "latents.kind=none", name="images")
    still = ["train.denoiser.steps=1", "train.denoiser.lr=1e-12", f"train.denoiser.initial={base}"]
    model = run(tmp_path / "latents", *still, name="images", stage="denoiser")
    before, after = (load_file(folder / "denoiser.safetensors") for folder in (base, model))
    assert len(after) > len(before)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "base", "words"),
    [
        ("toy-plain", "images", "denoiser.safetensors: does not fit"),
        ("images", "toy-plain", "denoiser.safetensors: does not fit"),
        ("toy-plain", "nowhere", "no such folder"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(tmp_path: Path, name: str, base: str, words: str) -> None:
    if base != "nowhere":
        run(tmp_path / "base", *SHORT, name=base)
    with pytest.raises(CheckpointError, match=words):
        run(tmp_path / "run", *SHORT, f"train.denoiser.initial={tmp_path / 'base'}", name=name)
