"""Scores of other programs: native poses before displaced ones, the same by another route, failures that are named."""

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from core.errors import DataError, RequestError
from domains.docking.chemistry.ligand import Ligand, read_ligand
from domains.docking.chemistry.pocket import Around
from domains.docking.chemistry.protein import Protein, read_protein
from domains.docking.dock import rescore as package
from domains.docking.dock.protonate import protonated
from domains.docking.dock.rescore import NAMES, Rescorer, Scores, process, require, rescore
from domains.docking.dock.rescore.process import scores_of
from domains.docking.dock.rescore.vina import autodock_type, ligand_pdbqt, receptor_pdbqt
from tests.docking_support import DATA

pytestmark = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="Vina and molgrid have wheels for Linux on x86-64"
)


@cache
def crystal() -> tuple[Ligand, Protein]:
    folder = DATA / "complexes" / "1bvi"
    return read_ligand(folder / "ligand.sdf"), read_protein(folder / "protein.pdb.gz")


def places(ligand: Ligand) -> np.ndarray:
    assert ligand.coordinates is not None
    return ligand.coordinates


@cache
def scored(name: Rescorer) -> Scores:
    """The crystal pose, one that is not finite, and the crystal pose displaced by 1 and by 3 A."""
    ligand, protein = crystal()
    x = places(ligand)
    step = np.array([0.6, 0.0, 0.8])
    return rescore(name, ligand.mol, np.stack([x, x * np.nan, x + step, x + 3 * step]), protein)


@pytest.mark.parametrize("name", ["vina", "gnina"])
def test_poses_that_are_not_finite_have_no_score_and_the_others_do(name: Rescorer) -> None:
    scores = scored(name)
    assert tuple(scores) == NAMES[name]
    for values in scores.values():
        assert np.isfinite(values).tolist() == [True, False, True, True]


def test_vina_prefers_the_crystal_pose() -> None:
    native, _, near, far = scored("vina")["vina"]
    assert -12 < native < -4
    assert native < near < far


def test_gnina_prefers_the_crystal_pose() -> None:
    score, affinity = scored("gnina").values()
    assert score[0] > 0.5 > score[3]
    assert ((score[[0, 2, 3]] >= 0) & (score[[0, 2, 3]] <= 1)).all()
    assert affinity[0] > affinity[3]
    assert 2 < affinity[0] < 12


def test_vina_gives_the_same_with_its_maps_at_full_resolution_and_the_whole_protein(
    tmp_path: Path,
) -> None:
    ligand, protein = crystal()
    code = (
        "import sys; from vina import Vina; v = Vina(sf_name='vina', cpu=1, seed=3, verbosity=0);"
        "v.set_receptor(sys.argv[1]); v.set_ligand_from_file(sys.argv[2]);"
        "v.compute_vina_maps(eval(sys.argv[3]), [25, 25, 25]); print(v.score()[0])"
    )
    receptor, pose = tmp_path / "receptor.pdbqt", tmp_path / "pose.pdbqt"
    receptor.write_text(receptor_pdbqt(protonated(protein)))
    pose.write_text(ligand_pdbqt(ligand.mol, places(ligand)[None])[0])
    centre = str(places(ligand).mean(axis=0).tolist())
    command = [sys.executable, "-c", code, str(receptor), str(pose), centre]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200).stdout
    assert float(said) == pytest.approx(scored("vina")["vina"][0], abs=2e-3)


def test_the_receptor_has_its_polar_hydrogens_and_no_others() -> None:
    ligand, protein = crystal()
    mol = protonated(protein.crop(Around(places(ligand), 6.0)))
    lines = receptor_pdbqt(mol).splitlines()
    kinds = [line[77:].strip() for line in lines]
    heavy = sum(atom.GetAtomicNum() > 1 for atom in mol.GetAtoms())
    polar = Chem.MolFromSmarts("[#1][#7,#8,#16]")
    assert len(lines) - kinds.count("HD") == heavy
    assert kinds.count("HD") == len(mol.GetSubstructMatches(polar))
    assert set(kinds) <= {"A", "C", "N", "NA", "OA", "SA", "HD"}


@pytest.mark.parametrize(
    ("smiles", "kinds"),
    [
        ("CC(N)=O", ["C", "C", "N", "OA"]),
        ("c1c[nH]cn1", ["A", "A", "N", "A", "NA"]),
        ("c1ccsc1", ["A", "A", "A", "SA", "A"]),
        ("OP", ["OA", "P"]),
    ],
)
def test_types_of_autodock(smiles: str, kinds: list[str]) -> None:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert [autodock_type(atom) for atom in mol.GetAtoms()][: len(kinds)] == kinds


def test_a_pose_far_from_the_protein_is_refused() -> None:
    ligand, protein = crystal()
    with pytest.raises((DataError, RequestError), match="pocket"):
        rescore("vina", ligand.mol, places(ligand)[None] + 900.0, protein)


def test_a_ligand_that_vina_cannot_type_is_refused() -> None:
    _, protein = crystal()
    mol = Chem.MolFromSmiles("C[Te]C")
    with pytest.raises(DataError):
        rescore("vina", mol, np.eye(3)[None] * 2 + protein.center, protein)


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ligand, protein = crystal()
    monkeypatch.setattr(package, "find_spec", lambda name: None if name == "meeko" else object())
    with pytest.raises(RequestError, match=r"needs meeko: pip install 'disco-diff\[rescore\]'"):
        rescore("vina", ligand.mol, places(ligand)[None], protein)
    require(["gnina"])


def test_an_unknown_program_is_refused() -> None:
    with pytest.raises(RequestError, match="no program 'glide'; there are vina, gnina"):
        require(["glide"])


def test_no_poses_have_no_scores() -> None:
    ligand, protein = crystal()
    assert rescore("vina", ligand.mol, np.zeros((0, ligand.n_atoms, 3)), protein)["vina"].shape == (0,)


def test_a_program_that_dies_leaves_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"worker_vina ended with code 1: .*receptor.pdbqt"):
        scores_of("worker_vina", tmp_path, {"center": [0, 0, 0], "size": [9, 9, 9], "poses": []}, 0)


def worker(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """A program of this code in the place of the true ones."""
    (folder / "made_up.py").write_text(code)
    monkeypatch.setattr(process, "__file__", str(folder / "process.py"))


WRITES = "import os, sys, pathlib; (pathlib.Path(sys.argv[1]) / 'scores.json').write_text({})"


def test_scores_come_from_a_single_thread_and_null_is_nan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    worker(tmp_path, monkeypatch, WRITES.format("'[[' + os.environ['OMP_NUM_THREADS'] + '], [null]]'"))
    np.testing.assert_array_equal(scores_of("made_up", tmp_path, {}, 2), [[1.0], [np.nan]])


@pytest.mark.parametrize(
    "text", ["{", "[1, 2]", "[[1]]", "[[1], [2, 3]]", '{"a": 1}', '[["a"], [1]]', "[[1], [1], [1]]"]
)
def test_scores_that_are_no_table_of_the_poses_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    worker(tmp_path, monkeypatch, WRITES.format(repr(text)))
    with pytest.raises(DataError, match="made_up wrote"):
        scores_of("made_up", tmp_path, {}, 2)


def test_a_program_without_an_answer_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "START", 1)
    worker(tmp_path, monkeypatch, "import time; time.sleep(600)")
    with pytest.raises(DataError, match="made_up gave no answer within 1 s"):
        scores_of("made_up", tmp_path, {}, 0)


def test_a_program_does_not_outlive_the_run_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = tmp_path / "started"
    worker(
        tmp_path, monkeypatch,
        f"import os, time; open({str(tmp_path / 'new')!r}, 'w').write(str(os.getpid()))\n"
        f"os.rename({str(tmp_path / 'new')!r}, {str(started)!r}); time.sleep(600)",
    )  # fmt: skip
    run = os.fork()
    if run == 0:
        with suppress(BaseException):
            scores_of("made_up", tmp_path, {}, 0)
        os._exit(0)
    wait(started.exists)
    os.kill(run, signal.SIGKILL)
    os.waitpid(run, 0)
    wait(lambda: ended(int(started.read_text())))


def wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def ended(number: int) -> bool:
    """Whether a process is gone, or dead and not yet fetched by its new parent."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
