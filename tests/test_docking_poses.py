"""Poses of one complex turned into figures: closed forms, real complexes, and every way it can go wrong."""

import csv
import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem

from core.errors import RequestError
from domains.docking.chemistry.protein import Protein, read_protein
from domains.docking.metrics import posechecks
from domains.docking.metrics.poses import judge_poses, with_poses
from domains.docking.metrics.table import summarise
from tests.protein_support import REAL_PROTEIN, as_cif
from tests.support import SHARED_DATA

BENZOATE = Chem.MolFromSmiles("c1ccccc1C(=O)O")
REAL = read_protein(REAL_PROTEIN)


def atoms_at(places: np.ndarray) -> Protein:
    """One residue of carbons."""
    count = len(places)
    return replace(
        REAL, names=("ALA",), chains=("A",), numbers=("1",), letters=("A",), ca=np.zeros((1, 3)), origin=np.array([0]),
        atom_names=("CB",) * count, elements=("C",) * count, positions=places, residue=np.zeros(count, dtype=np.int64),
    )  # fmt: skip


PROTEIN = atoms_at(np.array([[0.0, 0.0, 0.0], [50.0, 0.0, 0.0]]))
NO_ATOMS = atoms_at(np.empty((0, 3)))


def reference() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(9, 3)) + 10


def test_figures_have_their_closed_forms() -> None:
    crystal = reference()
    mirrored = crystal[[4, 3, 2, 1, 0, 5, 6, 8, 7]]  # ring flipped, oxygens traded: the same pose
    onto = crystal - crystal[0]  # atom 0 lies on the first protein atom
    poses = np.stack([crystal, mirrored, crystal + np.array([0.0, 0, 100]), onto]).astype(np.float32)
    result = judge_poses(
        BENZOATE, crystal, poses, PROTEIN, name="x", confidence=np.array([3.0, 2, 1, 0]), unseen=True, seconds=2.5
    )
    assert (result.name, result.unseen, result.seconds) == ("x", True, 2.5)
    assert (result.failure, result.problems, result.valid) == (None, (), None)
    np.testing.assert_allclose(result.rmsd[:2], 0, atol=1e-6)
    np.testing.assert_allclose(result.centroid, [0, 0, 100, np.linalg.norm(crystal[0])], atol=1e-5)
    own = np.linalg.norm(crystal[:, None] - crystal, axis=-1) + np.diag(np.full(9, np.inf))
    np.testing.assert_allclose(result.min_self_distance, own.min(), rtol=1e-4)
    np.testing.assert_allclose(result.min_protein_distance[0], np.linalg.norm(crystal, axis=1).min(), rtol=1e-6)
    assert result.min_protein_distance[3] == 0
    assert result.confidence is not None
    assert result.confidence.tolist() == [3, 2, 1, 0]


def test_a_pose_that_is_not_finite_is_a_problem_of_its_own() -> None:
    crystal = reference()
    poses = np.stack([crystal, crystal + np.nan, crystal + 1.0])
    result = judge_poses(BENZOATE, crystal, poses, PROTEIN, name="x")
    assert result.failure is None
    for figure in (result.rmsd, result.centroid, result.min_protein_distance, result.min_self_distance):
        assert np.isnan(figure).tolist() == [False, True, False]
    assert result.problems == ("RMSD: 1 of 3 poses have coordinates that are not finite",)


def test_symmetries_out_of_time_are_a_problem_not_the_plain_rmsd() -> None:
    crystal = reference()
    result = judge_poses(BENZOATE, crystal, crystal[None], PROTEIN, name="x", time_limit=-1.0)
    assert np.isnan(result.rmsd).all()  # the plain RMSD is 0
    assert result.centroid.tolist() == [0]
    assert "not resolved within" in result.problems[0]


def test_what_cannot_be_judged_is_a_named_failure() -> None:
    crystal, with_hydrogens = reference(), Chem.AddHs(BENZOATE)
    many = np.zeros((with_hydrogens.GetNumAtoms(), 3))
    cases = {
        "no poses": judge_poses(BENZOATE, crystal, crystal[None][:0], PROTEIN, name="x"),
        "remove the hydrogens": judge_poses(with_hydrogens, many, many[None], PROTEIN, name="x"),
        "ligand has 9 atoms": judge_poses(BENZOATE, crystal[:8], crystal[None, :8], PROTEIN, name="x"),
        "reference pose": judge_poses(BENZOATE, crystal + np.inf, crystal[None], PROTEIN, name="x"),
        "not 0 atoms": judge_poses(BENZOATE, crystal, crystal[None], NO_ATOMS, name="x"),
        "one value per pose": judge_poses(BENZOATE, crystal, crystal[None], PROTEIN, name="x", confidence=np.ones(2)),
    }
    for reason, result in cases.items():
        assert result.failure is not None
        assert reason in result.failure
        assert len(result.rmsd) == 0
    row = summarise([next(iter(cases.values()))], resamples=100).row("full", "random", "1")
    assert row.figures["rmsd_below_5"].value == 0  # a failure is a miss


class Failing:
    """PoseBusters that gives a result of the poses at z = 0 only."""

    def bust(self, pose: Chem.Mol, *_: object) -> pd.DataFrame:
        if pose.GetConformer().GetPositions()[0, 2] != 0:
            raise ZeroDivisionError("boom")
        return pd.DataFrame({"loaded": [True], "rmsd": [False]})


def test_poses_that_could_not_be_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    crystal = reference()
    poses = np.stack([crystal + np.nan, crystal, crystal])
    monkeypatch.setattr(posechecks, "_buster", lambda _: Failing())
    none = judge_poses(BENZOATE, crystal, poses, PROTEIN, name="x", pose_checks=True)
    assert none.valid is None  # not False: nothing was found out
    assert none.problems == (
        "RMSD: 1 of 3 poses have coordinates that are not finite",
        "PoseBusters: pose 1: coordinates are not finite",
        "PoseBusters: pose 2: PoseBusters failed: ZeroDivisionError: boom",
        "PoseBusters: pose 3: PoseBusters failed: ZeroDivisionError: boom",
    )
    poses[2, :, 2] = 0
    some = judge_poses(BENZOATE, crystal, poses, PROTEIN, name="x", pose_checks=True)
    assert some.valid is not None
    assert some.valid.tolist() == [False, False, True]
    lost = judge_poses(BENZOATE, crystal, poses[:1], PROTEIN, name="x", pose_checks=True)
    assert lost.valid is not None
    assert lost.valid.tolist() == [False]  # no pose was lost to PoseBusters

    monkeypatch.setattr(posechecks, "pdb_block", lambda _: "END\n")
    lost = judge_poses(BENZOATE, crystal, poses[1:], PROTEIN, name="x", pose_checks=True)
    assert lost.valid is None
    assert "PoseBusters: RDKit takes 0 of the 2 atoms" in lost.problems[0]
    np.testing.assert_allclose(lost.rmsd[0], 0)  # what could be measured stays


def test_missing_posebusters_stops_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "posebusters", None)
    with pytest.raises(RequestError, match="PoseBusters"):
        judge_poses(BENZOATE, reference(), reference()[None], PROTEIN, name="x", pose_checks=True)


def test_poses_become_conformers_in_order() -> None:
    poses = np.random.default_rng(0).normal(size=(3, 9, 3))
    mol = with_poses(with_poses(BENZOATE, poses[:1]), poses)
    found = np.stack([conformer.GetPositions() for conformer in mol.GetConformers()])
    np.testing.assert_array_equal(found, poses)
    assert BENZOATE.GetNumConformers() == 0


def read_complex(folder: Path) -> tuple[Chem.Mol, Protein]:
    """Ligand in its crystal pose, and the protein."""
    mol = Chem.MolFromMolFile(str(folder / "ligand.sdf"), sanitize=False)
    mol.UpdatePropertyCache(strict=False)
    return mol, read_protein(folder / "protein.pdb")


def test_poses_of_a_real_complex(complexes: Path) -> None:
    mol, protein = read_complex(complexes / "6e3n")
    Chem.SanitizeMol(mol)
    crystal = mol.GetConformer().GetPositions()
    poses = crystal + np.array([[0.0, 0, 0], [0, 0, 3], [0, 0, 0]])[:, None]
    poses[2] = crystal * 3 - 2 * crystal.mean(0)  # blown up
    result = judge_poses(mol, crystal, poses, protein, name="6e3n", pose_checks=True)
    np.testing.assert_allclose(result.rmsd[:2], [0, 3], atol=1e-9)
    np.testing.assert_allclose(result.centroid, [0, 3, 0], atol=1e-9)
    assert result.min_protein_distance[0] > 2
    assert result.valid is not None
    assert result.valid.tolist() == [True, False, False]
    assert (result.failure, result.problems) == (None, ())


@pytest.mark.parametrize("name", ["protein.pdb.gz", "protein.cif"])
def test_validity_does_not_depend_on_the_format_of_the_protein(name: str, complexes: Path, tmp_path: Path) -> None:
    text = (complexes / "6e3n" / "protein.pdb").read_text()
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else as_cif(text).encode())
    mol, _ = read_complex(complexes / "6e3n")
    Chem.SanitizeMol(mol)
    crystal = mol.GetConformer().GetPositions()
    protein = read_protein(tmp_path / name)
    result = judge_poses(mol, crystal, crystal[None], protein, name="6e3n", pose_checks=True)
    assert result.valid is not None
    assert result.valid.tolist() == [True]


def test_crystal_poses_of_the_test_set_score_as_they_must(complexes: Path) -> None:
    with (SHARED_DATA / "docking" / "test.csv").open() as file:
        unseen = {row["id"]: row["no_rec_overlap"] == "1" for row in csv.DictReader(file)}
    results = []
    for folder in sorted(complexes.iterdir())[::10]:
        mol, protein = read_complex(folder)
        crystal = mol.GetConformer().GetPositions()
        poses = crystal + np.array([[0.0, 0, 0], [0, 0, 3], [100, 0, 0]])[:, None]
        confidence = np.array([1.0, 0.0, -1.0])
        results.append(
            judge_poses(
                mol, crystal, poses, protein, name=folder.name, confidence=confidence, unseen=unseen[folder.name]
            )
        )
    summary = summarise(results, resamples=100)

    def figure(order: str, top: str, key: str) -> float:
        return summary.row("full", order, top).figures[key].value

    assert figure("confidence", "1", "rmsd_below_2") == 100
    assert figure("confidence", "1", "steric_clash") == 0
    assert figure("random", "1", "centroid_below_2") == pytest.approx(100 / 3)
    assert figure("random", "1", "centroid_below_5") == pytest.approx(200 / 3)
    assert figure("all", "oracle", "rmsd_p75") == pytest.approx(0, abs=1e-9)
    assert summary.groups[0].failures == summary.groups[0].unmeasured == 0
