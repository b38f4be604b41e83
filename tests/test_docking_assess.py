"""From sampled poses to a result: no extra that fails costs a pose, and films end in the poses that are written."""

import json
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rdkit import Chem

from core.errors import DataError, RequestError
from domains.docking.chemistry.ligand import read_ligand
from domains.docking.chemistry.protein import read_protein
from domains.docking.complex import Complex, Receptor, make_complex
from domains.docking.dock import assess as module
from domains.docking.dock import minimize, rescore
from domains.docking.dock.assess import assess, describe
from domains.docking.dock.engine import Docked
from domains.docking.dock.rescore.gnina import gnina_scores
from domains.docking.dock.result import DockingResult
from domains.docking.dock.settings import DockSettings
from domains.docking.metrics.posechecks import PoseChecks
from tests.docking_support import DATA

STEP = np.array([0.3, 0.0, 0.4])  # half an Angstrom


@cache
def native() -> Complex:
    folder = DATA / "complexes" / "1bvi"
    receptor = Receptor.of(read_protein(folder / "protein.pdb.gz"))
    return make_complex("1bvi", receptor, read_ligand(folder / "ligand.sdf"))


def sampled(*shifts: float) -> Docked:
    """The true pose, moved so many steps, at the end of three frames; the last sample has the best confidence."""
    true = native().ligand.coordinates
    assert true is not None
    poses = np.stack([true + shift * STEP for shift in shifts])
    frames = np.stack([poses + 9.0, poses + 1.0, poses], axis=1)
    return Docked(native(), poses, None, np.arange(len(shifts), dtype=np.float64), frames, 1.0)


def assessed(docked: Docked, **settings: Any) -> DockingResult:
    about = {**describe(native(), "p.pdb", "l.sdf"), "model": {"name": "m"}, "settings": {"seed": 0}}
    return assess(docked, DockSettings(**settings), about, pointers=True)


def fails(error: Exception) -> Callable[..., Any]:
    def work(*_: Any, **__: Any) -> Any:
        raise error

    return work


def test_poses_are_ranked_by_confidence_and_those_that_are_not_finite_are_left_out() -> None:
    docked = sampled(0.0, 1.0, 2.0)
    docked.positions[1, 0, 0] = np.nan
    result = assessed(docked)
    assert [(pose.rank, pose.sample, pose.confidence_band) for pose in result.poses] == [
        (1, 3, "high"), (2, 1, "moderate"),
    ]  # fmt: skip
    assert result.notes == ("1 of 3 poses were not finite and are left out",)
    docked.positions[:] = np.inf
    with pytest.raises(RequestError, match="no pose is finite"):
        assessed(docked)


@pytest.mark.parametrize(
    ("where", "name", "settings", "error", "said", "missing"),
    [
        (minimize, "_pair_table", {"minimize": True}, ValueError("x"), "minimisation failed", "minimized"),
        (module, "check_poses", {"check": True}, KeyError("x"), "PoseBusters failed", "checks"),
        (module, "check_poses", {"check": True}, DataError("atoms"), ": atoms", "pb_valid"),
        (subprocess, "run", {"rescore": ("vina", "gnina")},
         OSError(12, "Cannot allocate memory"), "rescoring with gnina failed", "rescores"),
    ],
)  # fmt: skip
def test_an_extra_that_fails_is_a_note_and_a_warning_and_costs_no_pose(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: Any, name: str,
    settings: dict[str, Any], error: Exception, said: str, missing: str,
) -> None:  # fmt: skip
    docked = sampled(0.0, 1.0)
    monkeypatch.setattr(where, name, fails(error))
    monkeypatch.setattr(rescore, "require", lambda names: None)
    monkeypatch.setattr(rescore, "PROGRAMS", dict.fromkeys(rescore.PROGRAMS, gnina_scores))
    result = assessed(docked, **settings)
    assert len(result.poses) == 2
    for pose in result.poses:
        assert getattr(pose, missing) is None
        np.testing.assert_array_equal(pose.positions, docked.positions[pose.sample - 1])
    assert len(result.notes) == len(settings.get("rescore", "1"))
    assert said in result.notes[-1]
    assert str(error) in result.notes[-1]
    assert "1bvi: " + result.notes[-1] in caplog.text


def test_what_one_program_cannot_do_the_other_still_does(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {"vina": lambda mol, poses, protein: {"vina": poses[:, 0, 0]}, "gnina": fails(MemoryError())}
    monkeypatch.setattr(rescore, "require", lambda names: None)
    monkeypatch.setattr(rescore, "PROGRAMS", scores)
    result = assessed(sampled(0.0, 1.0), rescore=("gnina", "vina"))
    for pose in result.poses:
        assert dict(pose.rescores or {}) == pytest.approx({"vina": pose.positions[0, 0]}, abs=1e-4)
    assert result.notes == ("rescoring with gnina failed, the poses are without it: unexpected MemoryError: ",)


def test_a_pose_apart_from_the_protein_has_no_score_of_other_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescore, "require", lambda names: None)
    monkeypatch.setattr(rescore, "PROGRAMS", {"vina": lambda mol, poses, whole: {"vina": np.full(len(poses), -7.0)}})
    result = assessed(sampled(0.0, 1000.0), rescore=("vina",))
    assert {pose.sample: pose.rescores for pose in result.poses} == {1: {"vina": -7.0}, 2: {"vina": None}}


def test_one_program_may_be_named_without_a_list() -> None:
    assert DockSettings.parse({"rescore": "vina"}).rescore == ("vina",)


def test_a_pose_on_which_posebusters_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = PoseChecks(("loaded",), np.array([[True], [False]]), np.array([True, False]), (None, "why"))
    monkeypatch.setattr(module, "check_poses", lambda *_: found)
    result = assessed(sampled(0.0, 1.0), check=True)
    assert [pose.pb_valid for pose in result.poses] == [True, False]
    assert result.notes == ("PoseBusters: pose of rank 2: why",)


def test_films_end_in_the_poses_that_are_written(tmp_path: Path) -> None:
    result = assessed(sampled(0.0, 1.0, 1000.0), minimize=True, trajectory=True)
    result.write(tmp_path, "p.pdb")
    poses = json.loads((tmp_path / "result.json").read_text())["poses"]
    # Rank 1 lies far from the protein: it is left as sampled, so its film is that of the sampler alone.
    assert [("reason" in pose["minimized"], pose["minimized"]["moved"] > 0) for pose in poses] == [
        (True, False), (False, True), (False, True),
    ]  # fmt: skip
    for pose, length in zip(poses, (3, 4, 4), strict=True):
        film = Chem.MolFromPDBFile(str(tmp_path / pose["trajectory"]), sanitize=False, proximityBonding=False)
        written = Chem.MolFromMolFile(str(tmp_path / pose["file"]))
        assert film.GetNumConformers() == length
        last = list(film.GetConformers())[-1].GetPositions()
        np.testing.assert_allclose(last, written.GetConformer().GetPositions(), atol=2e-3)
    assert np.isclose(poses[1]["confidence"], 1.0)  # of the pose as sampled


def test_without_minimisation_the_film_is_that_of_the_sampler() -> None:
    docked = sampled(0.0)
    assert docked.frames is not None
    (pose,) = assessed(docked, trajectory=True).poses
    np.testing.assert_array_equal(pose.frames, docked.frames[0])
