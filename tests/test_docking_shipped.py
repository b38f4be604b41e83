"""The models that come with the package: found by name, whole, described, and able to dock."""

import json
import logging
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from core.checkpoint import MANIFEST, read_manifest
from core.errors import CheckpointError
from core.files import sha256
from core.pipeline import Pipeline
from domains.docking import shipped as shipped_module
from domains.docking.dock.app import serve as serve_module
from domains.docking.dock.command import MODEL_VARIABLE, Command, docking_model
from domains.docking.pipeline import DockingPipeline
from domains.docking.shipped import CARD, NAMES, WEIGHTS, name_of, shipped
from tests.docking_models import protein, save_model, site
from tests.support import ROOT

PARTS = {"disco": {"denoiser", "encoder", "prior", "confidence", "sites"}, "plain": {"denoiser", "confidence", "sites"}}
THERE = [name for name in NAMES if (WEIGHTS / name / MANIFEST).is_file()]
LIGAND = "OC(=O)c1ccccc1"
TOLD = ("data", "licence", "training", "how good", "must not be used for")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Untrained models of the names of those that are shipped, in their place, and an empty working directory."""
    for name, kind in zip(NAMES, ("docking", "docking-plain"), strict=True):
        save_model(tmp_path / "weights" / name, kind)
    monkeypatch.setattr(shipped_module, "WEIGHTS", tmp_path / "weights")
    monkeypatch.delenv(MODEL_VARIABLE, raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "weights"


# What a name means


def test_names_give_the_shipped_models_and_disco_is_the_default(tiny: Path) -> None:
    assert docking_model(None) == shipped() == tiny / "disco"
    for name in NAMES:
        assert docking_model(name) == shipped(name) == tiny / name
        assert Pipeline.from_pretrained(shipped(name)).name == name
        assert name_of(shipped(name)) == name


def test_the_environment_beats_the_default_and_an_option_beats_the_environment(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MODEL_VARIABLE, "plain")
    assert docking_model(None) == tiny / "plain"
    assert docking_model("disco") == tiny / "disco"
    monkeypatch.setenv(MODEL_VARIABLE, str(tiny / "disco"))
    assert docking_model(None) == tiny / "disco"


def test_a_folder_of_such_a_name_needs_a_slash(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    mine = save_model(Path("disco"), "docking-plain")
    assert docking_model(None) == tiny / "disco"
    assert "./disco" not in caplog.text
    assert docking_model("disco") == tiny / "disco"
    assert "write ./disco" in caplog.text
    assert docking_model("./disco") == mine
    assert docking_model(mine.resolve()) == mine.resolve()
    assert docking_model(save_model(Path("other"))) == Path("other")


def test_unknown_names_list_the_known_ones(tiny: Path) -> None:
    for ask in (docking_model, shipped):
        with pytest.raises(CheckpointError, match=r"dicso.*disco, plain"):
            ask("dicso")
    with pytest.raises(CheckpointError, match="no/such: no such folder"):
        docking_model("no/such")


def test_an_installation_without_weights_says_so(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tiny / "disco" / MANIFEST).unlink()
    for ask in (lambda: docking_model(None), lambda: docking_model("disco"), shipped):
        with pytest.raises(CheckpointError, match="this installation lacks the weights"):
            ask()
    assert docking_model("plain") == tiny / "plain"


def test_a_run_says_once_which_model_docks_and_records_its_name(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command = Command.of({"poses": 1, "steps": 2, **site("1bvi")}, None, protein=protein("1bvi"), ligand="CCO",
                         out=tmp_path / "out")  # fmt: skip
    with caplog.at_level(logging.INFO, "disco"):
        command.dock(None, (), "cpu", 0, overwrite=False, report=False, quiet=False)
    (said,) = [record for record in caplog.records if "shipped model disco" in record.message]
    assert said.levelno == logging.INFO  # which --quiet leaves out
    assert "about 1,100 complexes" in said.message
    assert str(tiny / "disco" / CARD) in said.message
    assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["model"] == "disco"


def test_the_docking_page_takes_the_same_default() -> None:
    assert serve_module.docking_model is docking_model


# What is shipped


def test_both_models_are_shipped() -> None:
    """Without them the tests below would be vacuous."""
    assert list(NAMES) == THERE


def test_an_installation_gets_the_weights() -> None:
    """Every file of the models is one that the package's configuration takes along."""
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    patterns = packages["package-data"]["domains.docking"]
    taken = {path for pattern in patterns for path in (ROOT / "domains" / "docking").glob(pattern)}
    files = {path for path in WEIGHTS.rglob("*") if path.is_file()}
    assert files
    assert files <= taken


@pytest.mark.parametrize("name", THERE)
def test_a_shipped_model_is_whole_and_in_single_precision(name: str) -> None:
    folder = shipped(name)
    manifest = read_manifest(folder)
    assert set(manifest.weights) == PARTS[name]
    assert {part: sha256(folder / f"{part}.safetensors") for part in PARTS[name]} == dict(manifest.weights)
    pipeline = Pipeline.from_pretrained(folder, "cpu")
    assert isinstance(pipeline, DockingPipeline)
    assert set(pipeline.networks) == PARTS[name]
    tensors = [each for part in PARTS[name] for each in load_file(folder / f"{part}.safetensors").values()]
    floats = [each for each in tensors if each.is_floating_point()]
    assert {each.dtype for each in floats} == {torch.float32}
    assert all(bool(each.isfinite().all()) for each in floats)
    assert manifest.licence == "MIT"
    assert manifest.data_hash
    assert sum(path.stat().st_size for path in folder.iterdir()) < 20_000_000
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json", ".md"}


@pytest.mark.parametrize("name", NAMES)
def test_a_card_tells_data_licence_training_quality_and_misuse(name: str) -> None:
    text = (WEIGHTS / name / CARD).read_text(encoding="utf-8")
    headings = " ".join(re.findall(r"^## (.+)$", text, re.MULTILINE)).lower()
    assert [word for word in TOLD if word not in headings] == []
    for word in ("1,110", "CC0", "MIT", "affinity", "clinical", "Metals", "60 heavy atoms", "RMSD", "two CPU cores"):
        assert word in " ".join(text.split()), word
    assert "/shared/" not in text
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    assert [t for t in targets if "://" not in t and not (WEIGHTS / name / t).exists()] == []


@pytest.mark.parametrize("name", THERE)
def test_the_figures_of_a_card_are_filled_in(name: str) -> None:
    assert re.findall(r"@\w+@", (WEIGHTS / name / CARD).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("mode", ["pocket", "blind"])
@pytest.mark.parametrize("name", THERE)
def test_a_shipped_model_docks(name: str, mode: str, tmp_path: Path) -> None:
    pipeline = Pipeline.from_pretrained(shipped(name), "cpu")
    assert isinstance(pipeline, DockingPipeline)
    where = site("1bvi") if mode == "pocket" else {}
    result = pipeline.dock(protein("1bvi"), LIGAND, poses=2, steps=4, **where)
    result.save(tmp_path)
    poses = json.loads((tmp_path / "result.json").read_text())["poses"]
    assert [pose["rank"] for pose in poses] == [1, 2]
    for known, pose in zip(poses, result.poses, strict=True):
        assert np.isfinite(pose.positions).all()
        assert known["confidence"] is not None
        assert len(known["latents"]) == (2 if name == "disco" else 0)
        if mode == "pocket":
            assert "site" not in known
        else:
            assert known["site"].keys() == {"rank", "probability", "centre"}
            assert known["site"]["rank"] >= 1
            assert 0 <= known["site"]["probability"] <= 1
            assert np.isfinite(known["site"]["centre"]).all()
