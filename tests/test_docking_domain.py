"""Docking through the core's pipeline, training and command line."""

import copy
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rdkit import Chem

from core.config_file import parse_config
from core.errors import ConfigError, DataError, RequestError
from core.pipeline import Pipeline, Request
from core.samplers import Heun, make_sampler
from core.training.stage import DenoiserStage, PriorStage
from domains.docking.chemistry.pocket import Around
from domains.docking.config import DataConfig
from domains.docking.data import DockingDataset, read_complex
from domains.docking.domain import DockingDomain
from domains.docking.geometry import DockingGeometry
from domains.docking.noise import DockingNoise
from domains.docking.request import DockingRequest
from domains.docking.temperatures import PUBLISHED
from domains.docking.write import folder_names
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
        batch = pipeline.domain.request(range(5), protein=PROTEIN, ligand=str(library))
    assert [each.ligand.name for each in batch.complexes] == ["ethanol", "amine", "greasy"]
    assert batch.index == (0, 1, 2, 0, 1)
    assert "record 3 (broken)" in caplog.text
    assert len({id(each.receptor) for each in batch.complexes}) == 1


def test_ligands_of_different_molecules_share_a_batch(pipeline: Pipeline, library: Path) -> None:
    spec = {"protein": PROTEIN, "ligand": str(library)}
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
    result = pipeline.generate(count=2, spec={"protein": PROTEIN, "ligand": str(LIGAND)}, sampler=Heun())
    graph = result.batch.complexes[0].graph
    u, v = graph["ligand", "bond", "ligand"].edge_index
    before = (graph["ligand"].pos[u] - graph["ligand"].pos[v]).norm(dim=1).double()
    for pose in result.state.positions:
        torch.testing.assert_close((pose[u] - pose[v]).norm(dim=1), before, rtol=0, atol=1e-4)


def test_a_pocket_can_be_a_reference_ligand_a_sphere_or_a_box(pipeline: Pipeline) -> None:
    whole = pipeline.domain.request([0], protein=PROTEIN, ligand=str(LIGAND)).complexes[0]
    places = whole.ligand.coordinates
    assert places is not None
    center = places.mean(0).tolist()
    text = ",".join(f"{x:.2f}" for x in center)
    specs = ({"pocket": LIGAND, "margin": 6.0}, {"center": text, "radius": "12"}, {"center": center, "size": [20] * 3})
    for spec in specs:
        part = pipeline.domain.request([0], protein=PROTEIN, ligand=str(LIGAND), **spec).complexes[0].receptor
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
        ({"protein": PROTEIN, "ligand": "CCO", "center": "1,2", "radius": 3.0}, "center: give three numbers"),
        ({"protein": LIGAND, "ligand": "CCO"}, "6w70_ligand.sdf"),
    ],
)
def test_wrong_requests_are_named(pipeline: Pipeline, spec: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        pipeline.domain.request(range(1), **spec)


def test_names_become_folders_that_are_safe_short_and_all_different() -> None:
    names = ["../../etc/passwd", "a b", "a_b", "A_B", "...", "Naïve-1", "x" * 300]
    folders = list(folder_names(names))
    assert folders[:6] == ["etc_passwd", "a_b", "a_b_2", "A_B_3", "complex", "Naïve-1"]
    assert len(folders[6]) == 80


def test_ligands_whose_names_look_alike_do_not_overwrite_each_other(pipeline: Pipeline, tmp_path: Path) -> None:
    library = tmp_path / "clash.smi"
    library.write_text("CCO a b\nCCN a_b\n")
    result = pipeline.generate(count=4, spec={"protein": PROTEIN, "ligand": str(library)})
    paths = pipeline.domain.write(result, tmp_path / "out")
    assert len({str(path).casefold() for path in paths}) == 2
    assert [len(list(Chem.SDMolSupplier(str(path)))) for path in paths] == [2, 2]


def test_records_say_rank_confidence_latents_and_stereo(pipeline: Pipeline, tmp_path: Path) -> None:
    result = pipeline.generate(count=4, spec={"protein": PROTEIN, "ligand": "C[C@H](N)C(=O)/C=C/c1ccccc1"})
    (path,) = pipeline.domain.write(result, tmp_path)
    mols = list(Chem.SDMolSupplier(str(path)))
    ranks = [int(mol.GetProp("rank")) for mol in mols]
    confidence = [float(mol.GetProp("confidence")) for mol in mols]
    assert ranks == [1, 2, 3, 4]
    assert confidence == sorted(confidence, reverse=True)
    by_sample = dict(zip(result.batch.ids.tolist(), result.scores["confidence"].tolist(), strict=True))
    assert [by_sample[int(mol.GetProp("sample"))] for mol in mols] == pytest.approx(confidence, abs=1e-4)
    first = int(mols[0].GetProp("sample"))
    codes = result.latents.codes[result.batch.ids.tolist().index(first)].tolist()
    each = result.batch.complexes[0]
    assert [mols[0].GetProp(f"latent_{k}") for k in (1, 2)] == [each.node_name(code) for code in codes]
    assert {mol.GetProp("stereo") for mol in mols} == {"kept"}
    assert {Chem.MolToSmiles(mol) for mol in mols} == {each.ligand.smiles}


def test_double_bonds_turn_only_where_the_weights_were_trained_so(pipeline: Pipeline) -> None:
    spec = {"protein": PROTEIN, "ligand": "CCC(=O)/C=C\\CC"}
    ours = pipeline.domain.request([0], **spec).complexes[0].graph["ligand", "torsion", "ligand"].edge_index
    authors = DockingDomain(tiny_config("docking", ["model.quirks.turn_double_bonds=true"]))
    theirs = authors.request([0], **spec).complexes[0].graph["ligand", "torsion", "ligand"].edge_index
    assert theirs.shape[1] == ours.shape[1] + 1


def test_fewer_samples_than_ligands_are_remarked_on(
    pipeline: Pipeline, library: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline.domain.request(range(2), protein=PROTEIN, ligand=str(library))
    assert "2 samples for 3 ligands" in caplog.text


def test_poses_are_written_with_bond_orders_and_in_the_frame_of_the_protein(pipeline: Pipeline, tmp_path: Path) -> None:
    result = pipeline.generate(count=2, spec={"protein": PROTEIN, "ligand": str(LIGAND)})
    (path,) = pipeline.domain.write(result, tmp_path)
    mols = list(Chem.SDMolSupplier(str(path)))
    each = result.batch.complexes[0]
    assert [Chem.MolToSmiles(mol, isomericSmiles=False) for mol in mols] == [
        Chem.MolToSmiles(each.ligand.mol, isomericSmiles=False)
    ] * 2
    first = result.batch.ids.tolist().index(int(mols[0].GetProp("sample")))
    shift = mols[0].GetConformer().GetPositions() - result.state.positions[first].numpy()
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
        ({"folder": str(DOCKING_DATA), "table": "nowhere.csv"}, "no such file"),
        ({"folder": str(DOCKING_DATA), "table": str(LIGAND)}, "columns 'id' and 'split'"),
        ({"folder": str(DOCKING_DATA), "table": str(DOCKING_DATA / "complexes.csv")}, "holds none of the 2 complexes"),
    ],
)
def test_missing_data_is_named(settings: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        DockingDataset(DataConfig(**settings), "train")


def test_a_split_that_is_not_there_is_answered_with_those_that_are() -> None:
    data = DataConfig(folder=str(DOCKING_DATA / "complexes"), table=str(DOCKING_DATA / "complexes.csv"))
    with pytest.raises(DataError, match=r"no split 'test'; its splits: train \(2\), val \(1\)"):
        DockingDataset(data, "test")
    assert len(DockingDataset(data, "all")) == 3
    assert len(DockingDataset(data, "all", limit=1)) == 1


def test_a_ligand_that_one_format_garbles_is_read_from_the_other(tmp_path: Path) -> None:
    folder = tmp_path / "1abc"
    folder.mkdir()
    source = DOCKING_DATA / "complexes" / "2p70"
    (folder / "protein.pdb.gz").write_bytes((source / "protein.pdb.gz").read_bytes())
    (folder / "ligand.sdf").write_text("garbled\n\n\n  9 9  0\nM  END\n$$$$\n")
    (folder / "1abc_ligand.sdf").write_text((source / "ligand.sdf").read_text())
    assert read_complex(folder).ligand.n_atoms == 12


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
    extra = ["model.evaluation.latents=[prior,encoder,dropped]", "model.evaluation.split=all", "--record"]
    done = disco("evaluate", run, *extra, "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "evaluation.json").read_text())
    assert set(record["summary"]) == set(record["results"]) == {"prior", "encoder", "dropped"}
    assert (record["complexes"], record["of"], len(record["results"]["prior"])) == (3, 3, 3)
    assert record["summary"]["prior"]["groups"][1]["name"] == "unseen"
    assert "% < 2 A" in json.loads((run / "model" / "manifest.json").read_text())["metrics"]
    assert "3 of 3 complexes" in (tmp_path / "table.md").read_text()
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


def test_a_complex_that_fails_counts_as_a_miss_and_stops_no_other(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(DOCKING_DATA / "complexes", folder)
    (folder / "4kxj" / "ligand.sdf").write_text("<html>")
    domain = DockingDomain(tiny_config("docking", [f"model.data.folder={folder}", "model.evaluation.split=all"]))
    own = Pipeline(domain, pipeline.networks)
    solve = own.solve_in_pieces

    def failing(batch: Any, *rest: Any) -> Any:
        if batch.complexes[0].name == "1bvi":
            raise RuntimeError("out of memory")
        return solve(batch, *rest)

    monkeypatch.setattr(own, "solve_in_pieces", failing)
    domain.evaluation(own, Request(), tmp_path / "out", None)
    results = json.loads((tmp_path / "out" / "evaluation.json").read_text())["results"]["prior"]
    reasons = {result["name"]: result["failure"] for result in results}
    assert reasons["1bvi"] == "out of memory"
    assert "HTML" in reasons["4kxj"]
    assert reasons["2p70"] is None
    assert "3 complexes, 2 failed" in (tmp_path / "out" / "table.md").read_text()


def test_averages_of_the_weights_do_not_copy_the_data() -> None:
    domain = DockingDomain(tiny_config("docking"))
    domain.dataset("train")
    stage = DenoiserStage(domain)
    assert copy.deepcopy(stage).domain is domain


def test_ligands_that_nothing_turns_give_every_parameter_a_gradient(pipeline: Pipeline) -> None:
    """Processes that train together wait for the gradients of all parameters."""
    batch = pipeline.domain.request([0, 1], protein=PROTEIN, ligand="c1ccccc1")
    pose = batch.conformers()
    network = pipeline.domain.denoiser()
    scores = network(pose, torch.full((2,), 0.5), None, batch)
    (scores["tr"].sum() + scores["rot"].sum()).backward()
    assert all(p.grad is not None for p in network.torsion.parameters())


def test_samplers_that_multiply_noise_levels_are_refused(pipeline: Pipeline) -> None:
    for name in ("churn", "restart-623"):
        with pytest.raises(RequestError, match="needs noise levels that are sigma"):
            pipeline.generate(count=1, sampler=make_sampler(name))


def test_codes_are_checked_against_every_complex(pipeline: Pipeline, library: Path) -> None:
    spec = {"protein": PROTEIN, "ligand": str(library)}
    smallest = 126 + 3
    pipeline.generate(count=3, spec=spec, codes=torch.tensor([smallest - 1, 0]))
    with pytest.raises(RequestError, match=f"from 0 to {smallest - 1}"):
        pipeline.generate(count=3, spec=spec, codes=torch.tensor([smallest, 0]))
    with pytest.raises(RequestError, match="cannot share"):
        pipeline.generate(count=3, spec=spec, share_latents=True)


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
