"""Docking through the core's pipeline, training and command line."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem

from core.config_file import parse_config
from core.errors import ConfigError, DataError, RequestError
from core.pipeline import Pipeline
from core.samplers import Heun, make_sampler
from core.training.stage import DenoiserStage, PriorStage
from domains.docking.chemistry.pocket import Around
from domains.docking.config import DataConfig
from domains.docking.data import DockingDataset
from domains.docking.domain import DockingDomain
from domains.docking.geometry import DockingGeometry
from domains.docking.noise import DockingNoise
from domains.docking.request import DockingRequest
from domains.docking.temperatures import PUBLISHED
from domains.docking.write import folder_name
from tests.support import DOCKING_DATA, disco, streams, tiny_config, tiny_tree

PROTEIN, LIGAND = DOCKING_DATA / "6w70_protein.pdb.gz", DOCKING_DATA / "6w70_ligand.sdf"
LIGANDS = "CCO ethanol\nc1ccccc1CCN amine\nnot-a-molecule broken\nCC(C)CC1CCCCC1 greasy\n"
Trained = Callable[[str], Path]


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    """Untrained networks: what is tested here does not depend on their quality."""
    domain = DockingDomain(tiny_config("docking"))
    torch.manual_seed(0)
    return Pipeline(domain, {name: build() for name, build in domain.parts().items()})


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "ligands.smi"
    path.write_text(LIGANDS)
    return path


# ---- requests -------------------------------------------------------------------------------------------------------


def test_every_record_of_a_ligand_file_is_docked_and_a_broken_one_is_named(
    pipeline: Pipeline, library: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "disco"):
        batch = pipeline.domain.request(range(5), protein=PROTEIN, ligand=library)
    assert [each.ligand.name for each in batch.complexes] == ["ethanol", "amine", "greasy"]
    assert batch.index == (0, 1, 2, 0, 1)
    assert "record 3 (broken)" in caplog.text
    assert len({id(each.receptor) for each in batch.complexes}) == 1


def test_ligands_of_different_molecules_share_a_batch(pipeline: Pipeline, library: Path) -> None:
    spec = {"protein": PROTEIN, "ligand": library}
    together = pipeline.generate(count=6, spec=spec)
    assert together.state.mask.sum(1).tolist() == [3, 9, 10, 3, 9, 10]
    for number in range(3):
        alone = pipeline.generate(count=1, first=number, spec=spec)
        n = alone.state.positions.shape[1]
        torch.testing.assert_close(alone.state.positions[0], together.state.positions[number, :n], rtol=0, atol=1e-3)
        assert alone.latents.codes[0].tolist() == together.latents.codes[number].tolist()


def test_the_batch_size_changes_nothing(pipeline: Pipeline) -> None:
    whole = pipeline.generate(count=4).state.flat
    torch.testing.assert_close(pipeline.generate(count=4, batch_size=1).state.flat, whole, rtol=0, atol=1e-3)
    assert not torch.allclose(pipeline.generate(count=4, seed=1).state.flat, whole)


def test_latents_can_be_given_and_guided(pipeline: Pipeline) -> None:
    fixed = pipeline.generate(count=2, codes=torch.tensor([3, 40]))
    assert fixed.latents.codes.tolist() == [[3, 40], [3, 40]]
    half = pipeline.generate(count=2, codes=torch.tensor([3, -1]))
    assert half.latents.codes[:, 0].tolist() == [3, 3]
    guided = Pipeline(pipeline.domain, pipeline.networks)
    field = guided.field(fixed.batch, fixed.latents)
    strong = guided.generate(count=2, codes=torch.tensor([3, 40]), guidance=type(field.guidance)(latents=2.0))
    assert strong.nfe == 2 * fixed.nfe
    assert not torch.allclose(strong.state.flat, fixed.state.flat)
    with pytest.raises(RequestError, match="codes must be 2 numbers"):
        pipeline.generate(count=2, codes=torch.tensor([3, 100000]))


@pytest.mark.parametrize("sampler", ["euler", "heun", "euler-maruyama", "ddpm", *PUBLISHED])
def test_the_samplers_of_the_core_dock(pipeline: Pipeline, sampler: str) -> None:
    result = pipeline.generate(count=2, sampler=pipeline.sampler(sampler))
    assert torch.isfinite(result.state.flat).all()


def test_multistep_samplers_say_that_they_need_flat_space(pipeline: Pipeline) -> None:
    with pytest.raises(RequestError, match="flat geometry"):
        pipeline.generate(count=1, sampler=make_sampler("dpmpp-2m"))


def test_bonds_keep_their_lengths_through_a_whole_run(pipeline: Pipeline) -> None:
    result = pipeline.generate(count=2, spec={"protein": PROTEIN, "ligand": LIGAND}, sampler=Heun())
    graph = result.batch.complexes[0].graph
    u, v = graph["ligand", "bond", "ligand"].edge_index
    before = (graph["ligand"].pos[u] - graph["ligand"].pos[v]).norm(dim=1).double()
    for pose in result.state.positions:
        torch.testing.assert_close((pose[u] - pose[v]).norm(dim=1), before, rtol=0, atol=1e-4)


def test_a_pocket_can_be_a_reference_ligand_a_sphere_or_a_box(pipeline: Pipeline) -> None:
    whole = pipeline.domain.request([0], protein=PROTEIN, ligand=LIGAND).complexes[0]
    places = whole.ligand.coordinates
    assert places is not None
    center = places.mean(0).tolist()
    specs = (
        {"pocket": LIGAND, "margin": 6.0},
        {"center": center, "radius": 12.0},
        {"center": center, "size": [20] * 3},
    )
    for spec in specs:
        part = pipeline.domain.request([0], protein=PROTEIN, ligand=LIGAND, **spec).complexes[0].receptor
        assert 5 < part.protein.n_residues < whole.receptor.protein.n_residues
        np.testing.assert_allclose(part.centre, part.protein.ca.mean(0))
    assert isinstance(DockingRequest.parse({"protein": PROTEIN, "ligand": "C", "pocket": LIGAND}).region(), Around)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"protein": PROTEIN}, "give the ligand"),
        ({"ligand": "CCO"}, "give the protein"),
        ({"protein": PROTEIN, "ligand": "CCO", "colour": 1}, "takes no 'colour'"),
        ({"protein": "missing.pdb", "ligand": "CCO"}, "missing.pdb"),
        ({"protein": PROTEIN, "ligand": "missing.sdf"}, "missing.sdf"),
        ({"protein": PROTEIN, "ligand": "this is nothing"}, "neither an existing file nor a SMILES"),
        ({"protein": PROTEIN, "ligand": "CCO", "radius": 3.0}, "need a center"),
        ({"protein": PROTEIN, "ligand": "CCO", "center": [0, 0, 0]}, "either a radius or a size"),
        ({"protein": PROTEIN, "ligand": "CCO", "center": [900, 0, 0], "radius": 3.0}, "no atom of the protein"),
        ({"protein": PROTEIN, "ligand": "CCO", "center": [0, 0], "radius": 3.0}, "center"),
        ({"protein": LIGAND, "ligand": "CCO"}, "6w70_ligand.sdf"),
    ],
)
def test_wrong_requests_are_named(pipeline: Pipeline, spec: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        pipeline.domain.request(range(1), **spec)


@pytest.mark.parametrize(
    ("name", "folder"),
    [("../../etc/passwd", "etc_passwd"), ("a b/c", "a_b_c"), ("...", "complex"), ("Naïve-1", "Naïve-1")],
)
def test_no_name_of_a_ligand_leads_out_of_the_folder(name: str, folder: str) -> None:
    assert folder_name(name) == folder


def test_poses_are_written_with_bond_orders_and_in_the_frame_of_the_protein(pipeline: Pipeline, tmp_path: Path) -> None:
    result = pipeline.generate(count=2, spec={"protein": PROTEIN, "ligand": LIGAND})
    (path,) = pipeline.domain.write(result.state, result.batch, tmp_path)
    mols = list(Chem.SDMolSupplier(str(path)))
    each = result.batch.complexes[0]
    assert [Chem.MolToSmiles(mol, isomericSmiles=False) for mol in mols] == [
        Chem.MolToSmiles(each.ligand.mol, isomericSmiles=False)
    ] * 2
    shift = mols[0].GetConformer().GetPositions() - result.state.positions[0].numpy()
    np.testing.assert_allclose(shift, np.broadcast_to(each.receptor.centre, shift.shape), atol=1e-4)


# ---- data -----------------------------------------------------------------------------------------------------------


def test_the_table_says_which_complexes_are_trained_on() -> None:
    domain = DockingDomain(tiny_config("docking"))
    assert [each.name for each in domain.dataset("train").complexes] == ["1bvi", "4kxj"]
    assert domain.dataset("val").unseen == {"2p70"}


def test_the_clean_sample_lies_on_the_true_pose() -> None:
    for each in DockingDomain(tiny_config("docking")).dataset("train").complexes:
        ligand = each.graph["ligand"]
        assert float((ligand.matched - ligand.crystal).square().sum(1).mean().sqrt()) < 1.0
        assert each.ligand.coordinates is not None
        np.testing.assert_allclose(ligand.crystal.numpy() + each.receptor.centre, each.ligand.coordinates, atol=1e-4)


def test_a_complex_that_cannot_be_read_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("good1", "good2", "broken", "half"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "protein.pdb.gz").write_bytes((DOCKING_DATA / "complexes/2p70/protein.pdb.gz").read_bytes())
        if name != "half":
            text = (DOCKING_DATA / "complexes/2p70/ligand.sdf").read_text()
            (folder / "ligand.sdf").write_text("<html>" if name == "broken" else text)
    table = tmp_path / "table.csv"
    table.write_text("id,split\n" + "".join(f"{n},train\n" for n in ("good1", "good2", "broken", "half", "nowhere")))
    data = DockingDataset(DataConfig(folder=str(tmp_path), table=str(table)), "train")
    assert [each.name for each in data.complexes] == ["good1", "good2"]
    assert set(data.left_out) == {"broken", "half"}
    assert "HTML" in data.left_out["broken"]
    assert "nowhere" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "set model.data.folder"),
        ({"folder": "nowhere"}, "no such folder"),
        ({"folder": str(DOCKING_DATA), "table": "nowhere.csv"}, "cannot be read as a table"),
        ({"folder": str(DOCKING_DATA), "table": str(LIGAND)}, "columns 'id' and 'split'"),
    ],
)
def test_missing_data_is_named(settings: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        DockingDataset(DataConfig(**settings), "train")


# ---- training -------------------------------------------------------------------------------------------------------


def test_the_prior_starts_as_the_denoiser_and_is_frozen_at_first() -> None:
    domain = DockingDomain(tiny_config("docking", ["model.prior_freeze=5"]))
    denoiser = domain.denoiser()
    stage = PriorStage(domain, {"denoiser": denoiser, "encoder": domain.encoder()})
    inside, own = stage.prior.get_submodule("backbone").state_dict(), denoiser.get_submodule("backbone").state_dict()
    assert all(torch.equal(inside[name], own[name]) for name in own)
    assert {id(p) for p in stage.frozen(4)} == {id(p) for p in stage.prior.get_submodule("backbone").parameters()}
    assert list(stage.frozen(5)) == []


def test_a_short_training_and_its_evaluation_run_from_the_command_line(trained: Trained, tmp_path: Path) -> None:
    run = trained("docking")
    losses = [json.loads(line)["loss"] for line in (run / "log-denoiser.jsonl").read_text().splitlines()]
    assert np.isfinite(losses).all()
    extra = ["model.evaluation.latents=[prior,encoder,dropped]", "-n", "4", "-o", tmp_path]
    done = disco("evaluate", run, *extra)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "evaluation.json").read_text())
    assert set(record) == {"prior", "encoder", "dropped"}
    assert record["prior"]["groups"][1]["name"] == "unseen"
    assert "% RMSD < 2" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "curves.png").stat().st_size > 1000
    shown = disco(
        "sample", run, "-n", 2, "-o", tmp_path / "poses", "--given", f"protein={PROTEIN}", "--given", "ligand=CCO"
    )
    assert shown.returncode == 0, shown.stderr
    assert len(list(Chem.SDMolSupplier(str(next((tmp_path / "poses").glob("*/poses.sdf")))))) == 2


def test_training_lowers_the_loss_on_two_complexes() -> None:
    domain = DockingDomain(tiny_config("docking", ["latents.drop=0", "model.denoiser.dropout=0"]))
    torch.manual_seed(0)
    stage = DenoiserStage(domain)
    batch = domain.dataset("train").load([0, 1] * 4, range(8))
    optimiser = torch.optim.Adam(stage.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):  # the same noise every time: the loss must go down
        loss = stage(batch, streams(8))["loss"].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


# ---- configuration --------------------------------------------------------------------------------------------------


def test_conventions_and_levels_are_settings() -> None:
    domain = DockingDomain(tiny_config("docking", ["model.noise.igso3=authors", "model.noise.tr=[0.2, 5]"]))
    geometry = domain.geometry()
    assert isinstance(geometry, DockingGeometry)
    assert geometry.noise.tr == (0.2, 5.0)
    assert geometry.noise.igso3 != DockingNoise().igso3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("latents.kind=gaussian", "no continuous latents"),
        ("model.noise.tr=[5, 0.2]", "must be below"),
        ("sampling.sampler=low-temperature-disko", "low-temperature-disco"),
        ("model.denoiser.layer=3", "did you mean 'layers'"),
    ],
)
def test_wrong_settings_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DockingDomain(parse_config(tiny_tree("docking", [override]), "test"))


def test_a_model_with_a_language_model_says_where_to_put_it() -> None:
    domain = DockingDomain(tiny_config("docking", ["model.language_dim=1280"]))
    with pytest.raises(ConfigError, match=r"model\.language"):
        domain.request([0], protein=PROTEIN, ligand="CCO")
