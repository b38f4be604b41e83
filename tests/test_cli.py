"""The command line: what every command prints, writes and returns."""

import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from core import __version__
from core.checkpoint import read_manifest
from core.cli import app, main
from core.config_file import load_config
from core.errors import CheckpointError, ConfigError, RequestError
from core.pipeline import Pipeline
from core.registry import domain_names
from core.samplers import Mixed
from core.training.logs import read_jsonl
from tests.support import ROOT, disco, write_config

Trained = Callable[[str], Path]
COMMANDS = {c.name or c.callback.__name__ for c in app.registered_commands if c.callback}
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def _leave_no_traces() -> Iterator[None]:
    """The command line sets up logging and may ask for tracebacks: for one test only."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers, root.level = handlers, level
    os.environ.pop("DISCO_TRACEBACK", None)


def invoke(*arguments: str | Path) -> Result:
    """Run a command in this process; it must succeed."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_the_version_is_that_of_the_package() -> None:
    output = invoke("--version").output
    assert output.startswith(f"disco-diff {__version__}, torch 2.")


def test_all_commands_are_there() -> None:
    assert {"train", "sample", "evaluate", "diagnose", "domains", "config", "cite"} <= COMMANDS


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help_for_itself_and_all_its_options(command: str, option: str) -> None:
    output = invoke(command, option).output
    assert f"disco {command}" in re.sub(r"\s+", " ", output)
    parameters = {p.name: p for p in typer.main.get_command(app).commands[command].params}  # type: ignore[attr-defined]
    undocumented = [name for name, p in parameters.items() if name != "help" and not getattr(p, "help", None)]
    assert undocumented == []


def test_without_arguments_the_commands_are_listed() -> None:
    output = CliRunner().invoke(app, []).output
    assert all(command in output for command in COMMANDS)


def test_domains_are_listed_with_a_line_each() -> None:
    lines = invoke("domains").output.splitlines()
    assert [line.split()[0] for line in lines] == domain_names()
    assert all(len(line.split()) > 3 for line in lines)


def test_cite_names_the_paper() -> None:
    output = invoke("cite").output
    assert "DisCo-Diff}: Enhancing Continuous Diffusion Models with Discrete Latents" in output
    assert "Xu, Yilun" in output


@pytest.mark.parametrize("path", ["toy/disco.yaml", "images/digits-plain.yaml"])
def test_config_prints_what_loads_back(tmp_path: Path, path: str) -> None:
    source = ROOT / "experiments" / path
    printed = invoke("config", source, "seed=5").stdout
    (tmp_path / "printed.yaml").write_text(printed)
    assert load_config(tmp_path / "printed.yaml").model_dump() == load_config(source, ["seed=5"]).model_dump()
    assert yaml.safe_load(printed)["seed"] == 5


def test_a_dry_run_prints_the_plan_and_trains_nothing(tmp_path: Path) -> None:
    config = write_config(tmp_path / "run.yaml", "toy")
    output = invoke("train", config, "seed=3", "-o", tmp_path / "run", "--dry-run").stdout
    assert not (tmp_path / "run").exists()
    assert yaml.safe_load(output)["seed"] == 3
    for stage in ("denoiser", "prior"):
        assert f"# stage {stage}: 12 steps of 16 samples, 1 micro-batches of 16 on each of 1 process(es)" in output
    assert f"# folder: {tmp_path / 'run'}" in output
    assert "# training samples: 256" in output
    for part in ("denoiser", "encoder", "prior"):
        (size,) = re.findall(rf"# {part}: ([\d,]+) parameters", output)
        assert int(size.replace(",", "")) > 0


def test_a_dry_run_speaks_once_of_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    config = write_config(tmp_path / "run.yaml", "toy", ["train.prior.accumulate=2"])
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        output = invoke("train", config, "--dry-run").stdout
        said = "# stage prior: 12 steps of 16 samples, 2 micro-batches of 2 on each of 4 process(es)" in output
        assert (said, output == "") == (rank == 0, rank != 0)
    with pytest.raises(ConfigError, match=r"train\.prior\.batch = 20 cannot be split over 4 process"):
        invoke("train", config, "--dry-run", "train.prior.batch=20")


def test_train_writes_a_run_folder(tmp_path: Path) -> None:
    config = write_config(tmp_path / "run.yaml", "toy-plain", ["train.denoiser.steps=3"])
    result = invoke("train", config, "-o", tmp_path / "run", "-q", "--device", "cpu", "seed=4")
    assert f"model in {tmp_path / 'run' / 'model'}" in result.stderr
    assert {"config.yaml", "log-denoiser.jsonl", "model/manifest.json", "model/denoiser.safetensors"} <= files(
        tmp_path / "run"
    )
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["seed"] == 4
    assert len(read_jsonl(tmp_path / "run" / "log-denoiser.jsonl")) == 3


def test_train_takes_the_name_of_the_configuration_for_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    invoke("train", write_config(tmp_path / "first.yaml", "toy-plain", ["train.denoiser.steps=1"]), "-q")
    assert (tmp_path / "runs" / "first" / "model" / "manifest.json").is_file()


def test_sample_writes_points_their_record_and_the_configuration(trained: Trained, tmp_path: Path) -> None:
    result = invoke("sample", trained("toy"), "-n", "5", "--first", "2", "--seed", "3", "--steps", "4", "-o", tmp_path)
    assert "5 samples, 7 network evaluations each" in result.stderr
    assert files(tmp_path) == {"samples.npz", "samples.json", "config.yaml"}
    record = json.loads((tmp_path / "samples.json").read_text())
    assert record["ids"] == [2, 3, 4, 5, 6]
    assert (record["seed"], record["steps"], record["nfe"]) == (3, 4, 7)
    assert all(len(codes) == 1 and 0 <= codes[0] < 8 for codes in record["codes"])
    with np.load(tmp_path / "samples.npz") as arrays:
        assert arrays["x"].shape == (5, 2)
        assert arrays["id"].tolist() == [2, 3, 4, 5, 6]
    assert load_config(tmp_path / "config.yaml").domain == "toy"


def test_the_recorded_codes_give_the_same_sample_again(trained: Trained, tmp_path: Path) -> None:
    invoke("sample", trained("images"), "-n", "1", "-o", tmp_path / "first")
    codes = json.loads((tmp_path / "first" / "samples.json").read_text())["codes"][0]
    invoke("sample", trained("images"), "-n", "1", "-o", tmp_path / "second", "--codes", ",".join(map(str, codes)))
    name = "images/000000.png"
    assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_sample_with_another_model_below_a_noise_level(trained: Trained, tmp_path: Path) -> None:
    options = ("-n", "2", "--steps", "4", "--sampler", "mixed", "--option", "threshold=0.5", "-o", tmp_path)
    invoke("sample", trained("toy"), *options, "--low-model", trained("toy-plain"))
    record = json.loads((tmp_path / "samples.json").read_text())
    assert record["low_model"] == Pipeline.from_pretrained(trained("toy-plain"), "cpu").name
    invoke("sample", trained("toy"), *options, "--overwrite")
    assert json.loads((tmp_path / "samples.json").read_text())["low_model"] is None


def test_sample_writes_one_png_per_image_and_a_grid(trained: Trained, tmp_path: Path) -> None:
    invoke(
        "sample", trained("images"), "-n", "3", "--class", "7", "--class-guidance", "1", "--guidance", "0.5",
        "--sampler", "churn", "--option", "s_churn=10", "--share-latents", "--batch-size", "2", "-q", "-o", tmp_path,
    )  # fmt: skip
    images = {f"images/{i:06d}.png" for i in range(3)}
    assert files(tmp_path) == {"grid.png", "samples.json", "config.yaml", *images}
    assert all((tmp_path / name).read_bytes().startswith(PNG) for name in images)
    record = json.loads((tmp_path / "samples.json").read_text())
    assert record["labels"] == [7, 7, 7]
    assert record["codes"][0] == record["codes"][1] == record["codes"][2]
    assert "Churn(s_churn=10" in record["sampler"]
    assert (record["guidance"], record["class_guidance"]) == (0.5, 1.0)


def test_a_plain_model_has_no_codes_to_record(trained: Trained, tmp_path: Path) -> None:
    invoke("sample", trained("toy-plain"), "-n", "2", "-o", tmp_path, "model.noise.rho=5")
    assert json.loads((tmp_path / "samples.json").read_text())["codes"] is None
    assert load_config(tmp_path / "config.yaml").model.noise.rho == 5


def test_evaluate_prints_a_table_and_writes_json(trained: Trained, tmp_path: Path) -> None:
    output = invoke("evaluate", trained("toy"), "-n", "16", "--steps", "3", "-o", tmp_path, "-q").output
    rows = json.loads((tmp_path / "evaluation.json").read_text())["rows"]
    assert set(rows) == {"generated", "sampled", "oracle", "none"}
    for name, row in rows.items():
        assert set(row) == {"w2", "mode_imbalance", "spread", "nfe"}
        assert name in output
    assert f"{rows['generated']['w2']:.4g}" in output


def test_evaluate_takes_the_sampler_of_the_samples(trained: Trained, tmp_path: Path) -> None:
    options = ("--sampler", "mixed", "--option", "threshold=0.5", "--low-model", trained("toy-plain"))
    invoke("evaluate", trained("toy"), "-n", "16", "--steps", "4", "--batch-size", "5", *options, "-o", tmp_path)
    record = json.loads((tmp_path / "evaluation.json").read_text())
    assert "Mixed(threshold=0.5" in record["request"]["sampler"]
    mixed = Mixed(threshold=0.5)
    result = Pipeline.from_pretrained(trained("toy"), "cpu").generate(
        count=16, steps=4, sampler=mixed, low_model=Pipeline.from_pretrained(trained("toy-plain"), "cpu")
    )
    assert record["rows"]["generated"]["nfe"] == result.nfe


def test_evaluate_records_figures_in_the_manifest_when_asked(trained: Trained, tmp_path: Path) -> None:
    model = shutil.copytree(trained("toy-plain") / "model", tmp_path / "model")
    invoke("evaluate", model, "-n", "16", "--steps", "3", "-o", tmp_path, "-q")
    assert not read_manifest(model).metrics
    invoke("evaluate", model, "-n", "16", "--steps", "3", "-o", tmp_path, "--record", "-q")
    assert set(read_manifest(model).metrics or {}) == {"w2", "mode_imbalance", "spread", "nfe"}


def test_diagnose_writes_pictures_and_numbers(trained: Trained, tmp_path: Path) -> None:
    listed = invoke("diagnose", trained("images"), "-n", "4", "-o", tmp_path, "-q").stderr.split()
    assert {str(tmp_path / name) for name in files(tmp_path)} == set(listed)
    pictures = [p for p in tmp_path.iterdir() if p.suffix == ".png"]
    assert {p.name for p in pictures} >= {"curvature.png", "jacobian.png", "loss.png", "usage.png", "samples.png"}
    assert all(p.read_bytes().startswith(PNG) and p.stat().st_size > 200 for p in pictures)
    record = json.loads((tmp_path / "diagnosis.json").read_text())
    assert {"curvature", "jacobian", "loss", "usage", "switching"} <= set(record)
    assert set(record["loss"]) == {"with latents", "without latents"}


def test_an_error_ends_in_one_line_and_code_1(tmp_path: Path) -> None:
    done = disco("sample", tmp_path / "gone")
    assert done.returncode == 1
    assert done.stderr.startswith(f"CheckpointError: {tmp_path / 'gone'}: no such folder")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_a_traceback_comes_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["disco", "--traceback", "sample", str(tmp_path / "gone")])
    with pytest.raises(CheckpointError):
        main()


def test_given_values_reach_the_domain_as_they_stand() -> None:
    from core.cli import _given

    given = ["ligand=[O-]C(=O)c1ccccc1", "other=NO", "third=a=b"]
    assert _given(given) == {"ligand": "[O-]C(=O)c1ccccc1", "other": "NO", "third": "a=b"}
    for wrong in (["ligand"], ["ligand="], ["a=1", "a=2"]):
        with pytest.raises(RequestError):
            _given(wrong)
