"""The three places that name requirements agree, and what they name works together."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
INSTALLED = ("images", "docking", "app", "rescore", "dev")
REQUIRED = {"torch", "torch-geometric", "e3nn", "rdkit", "biopython", "timm", "pyyaml", "pytest"}


def project_requirements() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return {*project["dependencies"], *(each for name in INSTALLED for each in extras[name])}


def conda_pip_list() -> list[str]:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip_list,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    return pip_list


def name_of(requirement: str) -> str:
    return re.split(r"[<>=!~\[]", requirement)[0].strip().lower()


def test_environment_yml_repeats_pyproject():
    assert set(conda_pip_list()) - {"--editable ."} == project_requirements()


def test_environment_yml_installs_the_project_itself():
    assert "--editable ." in conda_pip_list()


def test_every_required_package_is_named():
    assert {name_of(r) for r in project_requirements()} >= REQUIRED


def test_every_requirement_is_pinned_by_the_constraints():
    pinned = {name_of(line) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {name_of(r) for r in project_requirements()} <= pinned


def test_constraints_hold_no_local_versions():
    # torch==2.13.0+cpu would shut out machines with CUDA
    assert "+" not in (ROOT / "constraints.txt").read_text()


@pytest.mark.filterwarnings("ignore")
def test_required_packages_import_together():
    import Bio.PDB
    import e3nn.o3
    import rdkit.Chem
    import torch_geometric.data

    assert rdkit.Chem.MolFromSmiles("CCO").GetNumAtoms() == 3
    assert e3nn.o3.Irreps("1x0e+1x1o").dim == 4
    assert torch_geometric.data.HeteroData() is not None
    assert Bio.PDB.PDBParser is not None


def test_timm_builds_a_vision_transformer():
    import torch

    from domains.images.torchvision_shim import import_timm

    vit = import_timm().create_model("vit_tiny_patch16_224", img_size=8, patch_size=2, in_chans=1, num_classes=3)
    assert vit(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
