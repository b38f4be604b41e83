"""Poses depend on model, files, id and seed alone, whatever shares their network calls and whatever fails beside them;
what comes back says everything that the contract of result.json promises."""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rdkit import Chem

from core.errors import RequestError
from core.pipeline import Pipeline
from core.rng import derive_key
from domains.docking.chemistry.protein import read_protein
from domains.docking.dock import engine
from domains.docking.dock.engine import conformer_seed
from domains.docking.dock.jobs import Failure
from domains.docking.dock.result import DockingResult
from domains.docking.dock.settings import DockSettings
from domains.docking.pipeline import DockingPipeline
from tests.docking_models import COMPLEXES, LIGANDS, protein, save_model, site

CLOSE = 1e-3  # Angstrom, for the same pose from another batch
Solve = Callable[..., Any]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., DockingPipeline]:
    """A pipeline by the arguments of ``save_model``, made once."""
    made: dict[Any, DockingPipeline] = {}

    def get(name: str = "docking", overrides: tuple[str, ...] = (), parts: tuple[str, ...] | None = None) -> Any:
        key = (name, overrides, parts)
        if key not in made:
            folder = save_model(tmp_path_factory.mktemp("model") / "tiny", name, overrides, parts)
            made[key] = Pipeline.from_pretrained(folder, "cpu")  # type: ignore[assignment]
        return made[key]

    return get


@pytest.fixture(scope="module")
def pipeline(models: Callable[..., DockingPipeline]) -> DockingPipeline:
    return models()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A SMILES file with some of LIGANDS, in this order."""
    folder = tmp_path_factory.mktemp("library")

    def write(names: Sequence[str] = tuple(LIGANDS)) -> Path:
        path = folder / f"{'-'.join(names)}.smi"
        path.write_text("".join(f"{LIGANDS[name]} {name}\n" for name in names))
        return path

    return write


def dock(pipeline: DockingPipeline, ligands: Path, **settings: Any) -> dict[str, DockingResult]:
    """Results of all ligands in a pocket of 1bvi by their ids; none may fail."""
    chosen = {"poses": 2, **site("1bvi"), **settings}
    found = list(pipeline.dock_each(protein("1bvi"), ligands, **chosen))
    assert not [each for each in found if isinstance(each, Failure)]
    return {each.id: each for each in found if isinstance(each, DockingResult)}


@pytest.fixture(scope="module")
def docked(pipeline: DockingPipeline, library: Callable[..., Path]) -> dict[str, DockingResult]:
    """The whole library, 2 poses each."""
    return dock(pipeline, library())


def places(result: DockingResult) -> np.ndarray:
    """[P, n, 3] in the order of the ranks."""
    return np.stack([pose.positions for pose in result.poses])


def assert_same(one: DockingResult, other: DockingResult) -> None:
    assert one.id == other.id
    assert [pose.sample for pose in one.poses] == [pose.sample for pose in other.poses], "another order"
    assert [pose.latents[0]["name"] for pose in one.poses] == [pose.latents[0]["name"] for pose in other.poses]
    np.testing.assert_allclose(places(one), places(other), rtol=0, atol=CLOSE)
    np.testing.assert_allclose(*([p.confidence for p in r.poses] for r in (one, other)), rtol=0, atol=1e-3)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The numbers of the samples of every network call."""
    seen: list[list[int]] = []
    solve = Pipeline.solve

    def watched(self: Pipeline, batch: Any, *rest: Any) -> Any:
        seen.append(batch.ids.tolist())
        return solve(self, batch, *rest)

    monkeypatch.setattr(DockingPipeline, "solve", watched)
    return seen


@pytest.mark.parametrize(("size", "most", "fewest"), [(1, 1, 8), (3, 3, 3), ("auto", 8, 1)])
def test_batches_change_no_pose(
    pipeline: DockingPipeline, library: Callable[..., Path], docked: dict[str, DockingResult], calls: list[list[int]],
    size: Any, most: int, fewest: int,
) -> None:  # fmt: skip
    again = dock(pipeline, library(), batch_size=size)
    assert again.keys() == docked.keys()
    for name, result in again.items():
        assert_same(result, docked[name])
    every = [number for call in calls for number in call]
    assert len(every) == len(set(every)) == 8
    assert max(map(len, calls)) == most
    assert len(calls) == fewest


def test_what_is_docked_beside_it_and_in_which_order_changes_no_pose(
    pipeline: DockingPipeline, library: Callable[..., Path], docked: dict[str, DockingResult]
) -> None:
    for name, result in dock(pipeline, library(list(LIGANDS)[::-1])).items():
        assert_same(result, docked[name])
    alone = pipeline.dock(protein("1bvi"), library(["chain"]), poses=2, **site("1bvi"))
    assert_same(alone, docked["1bvi_chain"])


def test_more_poses_are_the_same_ones_and_others(
    pipeline: DockingPipeline, library: Callable[..., Path], docked: dict[str, DockingResult]
) -> None:
    more = pipeline.dock(protein("1bvi"), library(["acid"]), poses=4, **site("1bvi"))
    assert sorted(pose.sample for pose in more.poses) == list(range(1, 5))
    by_number = {pose.sample: pose.positions for pose in more.poses}
    for pose in docked["1bvi_acid"].poses:
        np.testing.assert_allclose(by_number[pose.sample], pose.positions, rtol=0, atol=CLOSE)


def test_seeds_samples_and_ids_all_differ(pipeline: DockingPipeline, tmp_path: Path) -> None:
    twins = tmp_path / "twins.smi"
    twins.write_text("CCCO one\nCCCO two\n")
    first, second = dock(pipeline, twins).values()
    other = dock(pipeline, twins, seed=1)["1bvi_one"]
    every = np.concatenate([places(first), places(second), places(other)])
    apart = np.abs(every[:, None] - every[None]).max((2, 3))
    assert apart[~np.eye(len(every), dtype=bool)].min() > 0.1
    seeds = {conformer_seed(seed, name) for seed in (0, 1, 2**40) for name in ("one", "two")}
    assert len(seeds) == 6
    assert conformer_seed(0, "one") == derive_key(0, "conformer/one")[0] % 2**31, "published results depend on it"


def test_poses_are_ranked_by_confidence(
    pipeline: DockingPipeline, library: Callable[..., Path], docked: dict[str, DockingResult],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Equal ones as sampled; one that is no number comes last."""
    for result in docked.values():
        confidences = [pose.confidence or 0.0 for pose in result.poses]
        assert confidences == sorted(confidences, reverse=True)
        assert [pose.rank for pose in result.poses] == [1, 2]
    scores = {"confidence": torch.tensor([-1.0, 2.0, torch.nan, 2.0, -2.0])}
    monkeypatch.setattr(pipeline.domain, "scores", lambda *_: scores)
    result = dock(pipeline, library(["acid"]), poses=5)["1bvi_acid"]
    assert [(pose.sample, pose.confidence, pose.confidence_band) for pose in result.poses] == [
        (2, 2.0, "high"), (4, 2.0, "high"), (1, -1.0, "moderate"), (5, -2.0, "low"), (3, None, None),
    ]  # fmt: skip
    assert '"confidence": null' in json.dumps(result.poses[-1].record(), allow_nan=False)


# Memory


def limited(monkeypatch: pytest.MonkeyPatch, room: Callable[[Any], bool], error: Exception) -> list[int]:
    """Network calls that ``room`` refuses run out of memory; returns the sizes of all calls so far."""
    sizes: list[int] = []
    solve = Pipeline.solve

    def tight(self: Pipeline, batch: Any, *rest: Any) -> Any:
        sizes.append(batch.size)
        if not room(batch):
            raise error
        return solve(self, batch, *rest)

    monkeypatch.setattr(DockingPipeline, "solve", tight)
    return sizes


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    MemoryError("Unable to allocate 3.1 GiB for an array"),
]


def test_a_call_that_does_not_fit_is_halved(
    pipeline: DockingPipeline, library: Callable[..., Path], docked: dict[str, DockingResult],
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    sizes = limited(monkeypatch, lambda batch: batch.size <= 3, OUT_OF_MEMORY[0])
    with caplog.at_level(logging.WARNING, "disco"):
        again = dock(pipeline, library())
    assert sizes == [8, 4, 2, 2, 4, 2, 2]
    assert "out of memory with 8 poses" in caplog.text
    for name, result in again.items():
        assert_same(result, docked[name])


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["cuda", "cpu", "cublas", "numpy"])
def test_every_way_to_run_out_of_memory_is_known(
    pipeline: DockingPipeline, library: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    sizes = limited(monkeypatch, lambda batch: False, error)
    (failed,) = pipeline.dock_each(protein("1bvi"), library(["acid"]), poses=4, **site("1bvi"))
    assert isinstance(failed, Failure)
    assert "does not fit into memory" in failed.reason
    assert sizes == [4, 2, 1]


def test_a_complex_that_never_fits_fails_and_the_others_are_docked(
    pipeline: DockingPipeline, library: Callable[..., Path], docked: dict[str, DockingResult],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    limited(monkeypatch, lambda b: all(b.complexes[i].ligand.n_atoms < 6 for i in set(b.index)), OUT_OF_MEMORY[1])
    outcomes = list(pipeline.dock_each(protein("1bvi"), library(), poses=2, **site("1bvi")))
    assert [each.id for each in outcomes] == list(docked)
    failed = [each for each in outcomes if isinstance(each, Failure)]
    assert [each.id for each in failed] == ["1bvi_ring", "1bvi_alanine"], "those of six atoms"
    assert {each.stage for each in failed} == {"docking"}
    assert all("does not fit into memory: dock into a pocket" in each.reason for each in failed)
    for each in outcomes:
        if isinstance(each, DockingResult):
            assert_same(each, docked[each.id])


@pytest.mark.parametrize(
    "error", [IndexError("out of range"), torch.linalg.LinAlgError("singular"), ZeroDivisionError("by zero")], ids=repr
)
def test_whatever_a_complex_provokes_in_the_networks_is_its_own_failure(
    pipeline: DockingPipeline, library: Callable[..., Path], docked: dict[str, DockingResult],
    monkeypatch: pytest.MonkeyPatch, error: Exception,
) -> None:  # fmt: skip
    limited(monkeypatch, lambda b: all(b.complexes[i].name != "1bvi_alanine" for i in set(b.index)), error)
    outcomes = list(pipeline.dock_each(protein("1bvi"), library(), poses=2, **site("1bvi")))
    (failed,) = [each for each in outcomes if isinstance(each, Failure)]
    assert failed.id == "1bvi_alanine"
    assert type(error).__name__ in failed.reason
    assert len(outcomes) == len(docked)


def test_who_watches_a_call_can_stop_the_run(
    pipeline: DockingPipeline, library: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        pass

    limited(monkeypatch, lambda batch: False, Stop())
    with pytest.raises(Stop):
        list(pipeline.dock_each(protein("1bvi"), library(), poses=2, **site("1bvi")))


def test_on_a_gpu_a_call_is_as_large_as_the_memory_is_thought_to_hold(
    pipeline: DockingPipeline, docked: dict[str, DockingResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of what is free, for pairs of 6 and 4 ligand atoms with every residue; never less than one pose."""
    docks = engine.Engine(pipeline, DockSettings())
    monkeypatch.setattr(pipeline, "device", torch.device("cuda"))
    ring, acid = (docked[name].complex for name in ("1bvi_ring", "1bvi_acid"))
    residues = ring.receptor.protein.n_residues
    free = 2 * engine.PAIR_BYTES * residues * 24
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    assert [docks.capacity(each) for each in (ring, acid)] == [4, 6]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 2 * free))
    assert docks.capacity(ring) == 1
    fixed = engine.Engine(pipeline, DockSettings(batch_size=3))
    assert fixed.capacity(ring) == 3


# What a model must have


def test_a_model_without_prior_is_refused_before_anything_is_read(models: Callable[..., DockingPipeline]) -> None:
    with pytest.raises(RequestError, match=r"no prior yet.*train --stage prior"):
        models(parts=("denoiser", "encoder")).dock("no-such-file.pdb", "CCO")


@pytest.mark.parametrize(
    ("name", "overrides"), [("docking-plain", ()), ("docking", ("latents.drop=0",))], ids=["plain", "never-dropped"]
)
def test_guidance_needs_a_model_that_was_trained_for_it(
    models: Callable[..., DockingPipeline], name: str, overrides: tuple[str, ...]
) -> None:
    with pytest.raises(RequestError, match=r"guidance on latents.*not trained for it"):
        models(name, overrides).dock("no-such-file.pdb", "CCO", guidance=1.0)


def test_guidance_changes_poses_and_is_recorded(
    pipeline: DockingPipeline, library: Callable[..., Path], docked: dict[str, DockingResult]
) -> None:
    guided = dock(pipeline, library(["ring"]), guidance=2.0)["1bvi_ring"]
    assert guided.about["settings"]["guidance"] == 2.0
    assert np.abs(places(guided) - places(docked["1bvi_ring"])).max() > 0.01


def test_unknown_samplers_and_settings_are_named(pipeline: DockingPipeline) -> None:
    with pytest.raises(Exception, match="unknown sampler 'magic'"):
        pipeline.dock(protein("1bvi"), "CCO", sampler="magic")
    with pytest.raises(RequestError, match="no 'pose'"):
        pipeline.dock(protein("1bvi"), "CCO", pose=3)
    with pytest.raises(RequestError, match="poses"):
        pipeline.dock(protein("1bvi"), "CCO", poses=0)


def test_models_without_latents_or_ranking_or_with_words_dock_too(
    models: Callable[..., DockingPipeline], library: Callable[..., Path]
) -> None:
    plain = dock(models("docking-plain"), library(["acid"]))["1bvi_acid"]
    assert [pose.latents for pose in plain.poses] == [()] * 2
    words = dock(models("docking-vocabulary"), library(["acid"]))["1bvi_acid"]
    assert {latent["kind"] for pose in words.poses for latent in pose.latents} == {"word"}
    unranked = dock(models(parts=("denoiser", "encoder", "prior")), library(["acid"]))["1bvi_acid"]
    assert [(pose.rank, pose.sample, pose.confidence, pose.confidence_band) for pose in unranked.poses] == [
        (number, number, None, None) for number in (1, 2)
    ]
    assert "confidence" not in unranked.poses[0].properties()


# What comes back


@pytest.fixture(scope="module")
def crystal(pipeline: DockingPipeline) -> DockingResult:
    """A real ligand in its own pocket, with the way there."""
    return dock_crystal(pipeline, trajectory=True)


def dock_crystal(pipeline: DockingPipeline, **settings: Any) -> DockingResult:
    ligand = COMPLEXES / "2p70" / "ligand.sdf"
    return pipeline.dock(protein("2p70"), ligand, poses=3, pocket=ligand, steps=4, **settings)


def test_results_on_disk_are_what_the_contract_says(crystal: DockingResult, tmp_path: Path) -> None:
    returned = crystal.write(tmp_path, "../proteins/2p70.pdb", fingerprint="abc")
    record = json.loads((tmp_path / "result.json").read_text())
    assert record == json.loads(json.dumps(returned))
    assert record["schema"] == 1
    assert record["fingerprint"] == "abc"
    assert record["id"] == crystal.id
    assert record["protein"]["file"] == "../proteins/2p70.pdb"
    assert record["protein"]["source"].endswith("2p70/protein.pdb.gz")
    assert record["protein"]["residues"] == crystal.complex.receptor.protein.n_residues
    assert "10 A" in record["pocket"]
    ligand = crystal.complex.ligand
    assert record["ligand"]["heavy_atoms"] == ligand.n_atoms == 12
    assert Chem.CanonSmiles(record["ligand"]["smiles"]) == Chem.MolToSmiles(ligand.mol)
    assert record["ligand"]["rotatable_bonds"] >= 1
    assert set(record["model"]) == {"name", "sha256"}
    assert record["model"]["name"] == "tiny"
    assert len(record["model"]["sha256"]) == 64
    assert record["settings"] == {"poses": 3, "steps": 4, "seed": 0, "sampler": "euler", "guidance": 0.0}
    assert record["seconds"] > 0
    for rank, pose in enumerate(record["poses"], start=1):
        assert pose["rank"] == rank
        assert pose["file"] == f"rank{rank}.sdf"
        assert pose["trajectory"] == f"rank{rank}_reverseprocess.pdb"
        assert pose["confidence_band"] in ("high", "moderate", "low")
        assert pose["stereo"] in ("kept", "changed")
        assert not {"checks", "pb_valid", "minimized", "rescores"} & pose.keys(), "only where they were asked for"
        assert isinstance(pose["clashes"], int)
        assert set(pose["flags"]) <= {"clash", "self-clash", "strain", "stereo", "not-finite"}
    files = {"poses.sdf", "result.json"} | {
        f"rank{r}{end}" for r in (1, 2, 3) for end in (".sdf", "_reverseprocess.pdb")
    }
    assert {path.name for path in tmp_path.iterdir()} == files


def test_latents_point_where_they_say(crystal: DockingResult) -> None:
    whole = read_protein(protein("2p70"))
    kinds = set()
    for pose in crystal.poses:
        for slot, latent in enumerate(pose.latents, start=1):
            kinds.add(latent["kind"])
            assert latent["slot"] == slot
            if latent["kind"] == "atom":
                symbol = crystal.complex.ligand.mol.GetAtomWithIdx(latent["atom"]).GetSymbol()
                assert latent["name"] == f"atom {latent['atom'] + 1} ({symbol})"
                np.testing.assert_allclose(latent["point"], pose.positions[latent["atom"]], atol=1e-3)
            else:
                found = [i for i in range(whole.n_residues) if whole.label(i) == latent["name"]]
                assert len(found) == 1
                assert (whole.chains[found[0]], whole.numbers[found[0]]) == (latent["chain"], latent["number"])
                np.testing.assert_allclose(latent["point"], whole.ca[found[0]], atol=1e-3)
    assert kinds == {"atom", "residue"}


def test_sd_records_hold_poses_and_figures(crystal: DockingResult, tmp_path: Path) -> None:
    crystal.write(tmp_path, "protein.pdb")
    assert (tmp_path / "poses.sdf").read_text() == "".join((tmp_path / f"rank{r}.sdf").read_text() for r in (1, 2, 3))
    molecules = list(Chem.SDMolSupplier(str(tmp_path / "poses.sdf")))
    for pose, mol in zip(crystal.poses, molecules, strict=True):
        np.testing.assert_allclose(mol.GetConformer().GetPositions(), pose.positions, atol=1e-4)
        said = mol.GetPropsAsDict(autoConvertStrings=False)
        assert said["rank"] == str(pose.rank)
        assert said["sample"] == str(pose.sample)
        assert float(said["confidence"]) == pytest.approx(pose.confidence, abs=1e-4)
        assert said["confidence_band"] == pose.confidence_band
        assert [said["latent_1"], said["latent_2"]] == [latent["name"] for latent in pose.latents]
        assert said["seed"] == "0"
        assert said["model"] == "tiny"
        assert said["flags"] == (", ".join(pose.flags) or "none")
        assert Chem.MolToSmiles(mol) == Chem.MolToSmiles(crystal.complex.ligand.mol)


def test_poses_lie_in_the_frame_of_the_protein_file(crystal: DockingResult) -> None:
    """The noise is 5 Angstrom wide here, so every pose is near the pocket, which is far from the origin."""
    coordinates = crystal.complex.receptor.protein.center
    assert np.linalg.norm(coordinates) > 10
    assert np.linalg.norm(places(crystal).mean((0, 1)) - coordinates) < 10
    whole = read_protein(protein("2p70")).positions
    for pose in crystal.poses:
        nearest = np.linalg.norm(whole[:, None] - pose.positions[None], axis=-1).min()
        assert pose.protein_distance == pytest.approx(nearest, abs=1e-3)


def test_a_trajectory_has_one_model_per_step_and_ends_at_the_pose(crystal: DockingResult, tmp_path: Path) -> None:
    crystal.write(tmp_path, "protein.pdb")
    for pose in crystal.poses:
        mol = Chem.MolFromPDBFile(
            str(tmp_path / f"rank{pose.rank}_reverseprocess.pdb"), sanitize=False, proximityBonding=False
        )
        assert mol.GetNumConformers() == 4 + 1
        frames = [conformer.GetPositions() for conformer in mol.GetConformers()]
        np.testing.assert_allclose(frames[-1], pose.positions, atol=2e-3)
        assert pose.frames is not None
        np.testing.assert_allclose(frames, pose.frames, atol=2e-3)
        assert np.abs(frames[0] - frames[-1]).max() > 0.1
        symbols = [atom.GetSymbol() for atom in mol.GetAtoms()]
        assert symbols == [atom.GetSymbol() for atom in crystal.complex.ligand.mol.GetAtoms()]


def test_a_trajectory_changes_no_pose(pipeline: DockingPipeline, crystal: DockingResult) -> None:
    plain = dock_crystal(pipeline, batch_size=2)
    assert_same(plain, crystal)
    assert all(pose.frames is None for pose in plain.poses)


def test_a_notebook_shows_the_pose_in_its_protein(crystal: DockingResult) -> None:
    page = crystal.view(rank=1)._make_html()
    assert page.count("addModel") == 2
    assert "ATOM      1" in page
    assert "V2000" in page
    with pytest.raises(RequestError, match="no pose of rank 99"):
        crystal.view(rank=99)


def test_a_result_as_a_table_a_molecule_and_a_page(crystal: DockingResult, tmp_path: Path) -> None:
    assert repr(crystal).startswith(f"DockingResult({crystal.id}: 3 poses, best confidence")
    frame = crystal.to_frame()
    assert list(frame["rank"]) == [1, 2, 3]
    assert set(frame["id"]) == {crystal.id}
    assert list(frame["latent_2"]) == [pose.latents[1]["name"] for pose in crystal.poses]
    np.testing.assert_allclose(crystal.mol(2).GetConformer().GetPositions(), crystal.poses[1].positions)
    with pytest.raises(RequestError, match="no pose of rank 4: its ranks are 1 to 3"):
        crystal.mol(4)
    page = crystal.save(tmp_path / "kept")
    assert page.is_file()
    assert {"protein.pdb", "poses.sdf", "rank1.sdf", "result.json"} <= {p.name for p in page.parent.iterdir()}
    again = read_protein(page.parent / "protein.pdb")
    np.testing.assert_allclose(again.positions, read_protein(protein("2p70")).positions, atol=1e-3)


def test_a_complex_is_named_and_its_ligand_has_a_template_in_python_too(pipeline: DockingPipeline) -> None:
    one, two = (pipeline.dock(protein("2p70"), "CCO", poses=1, name=name) for name in ("here", "there"))
    assert (one.id, two.id) == ("here", "there")
    assert not np.allclose(one.poses[0].positions, two.poses[0].positions)
    with pytest.raises(RequestError, match="template"):
        pipeline.dock(protein("2p70"), "CCO", template="CCO")


def test_a_molecule_of_a_notebook_is_docked_like_its_file(pipeline: DockingPipeline, tmp_path: Path) -> None:
    mol = Chem.MolFromSmiles("CCCO")
    mol.SetProp("_Name", "chain")
    path = tmp_path / "ligands.smi"
    path.write_text("CCCO chain\n")
    settings = {"poses": 1, **site("1bvi")}
    assert_same(pipeline.dock(protein("1bvi"), mol, **settings), pipeline.dock(protein("1bvi"), path, **settings))


@pytest.mark.parametrize(
    ("bad", "kept", "words"), [((1,), [1, 3], "1 of 3 poses were not finite"), ((0, 1, 2), [], "no pose is finite")]
)
def test_poses_that_are_not_finite_are_left_out(
    pipeline: DockingPipeline, library: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, bad: tuple[int, ...],
    kept: list[int], words: str,
) -> None:  # fmt: skip
    solve = Pipeline.solve

    def overflowing(self: Pipeline, batch: Any, *rest: Any) -> Any:
        state, nfe = solve(self, batch, *rest)
        state.positions[list(bad)] = torch.nan
        return state, nfe

    monkeypatch.setattr(DockingPipeline, "solve", overflowing)
    (outcome,) = pipeline.dock_each(protein("1bvi"), library(["acid"]), poses=3, **site("1bvi"))
    if isinstance(outcome, Failure):
        assert not kept
        assert words in outcome.reason
    else:
        assert sorted(pose.sample for pose in outcome.poses) == kept
        assert words in outcome.notes[0]
        json.dumps([pose.record() for pose in outcome.poses], allow_nan=False)
