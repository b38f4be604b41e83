"""AutoDock Vina 1.2 (https://doi.org/10.1021/acs.jcim.1c00203) as a method of the table: one thread, 9 poses."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import Float64
from scipy.spatial import cKDTree

from benchmarks.docking_table.complexes import Case, Mode, Poses, search_box
from core.errors import DataError, RequestError
from domains.docking.chemistry.conformer import embed_conformer
from domains.docking.chemistry.protein import read_protein
from domains.docking.dock.protonate import protonated
from domains.docking.dock.rescore import require
from domains.docking.dock.rescore.vina import ligand_pdbqt, receptor_pdbqt

ROOT = Path(__file__).parents[2]
SAME_PLACE = 0.01  # Angstrom: PDBQT has three decimals


@dataclass(frozen=True)
class VinaDocking:
    """Docks one complex per process, from a conformer of RDKit's. cpu_limit: CPU seconds of Vina, None for no limit.

    Blind, the box holds the whole protein, else the crystal ligand (``search_box``). Raises RequestError where Vina is
    not installed, and at a call where it finds nothing.
    """

    exhaustiveness: int = 8
    seed: int = 0
    cpu_limit: int | None = None

    def __post_init__(self) -> None:
        require(("vina",))

    def __call__(self, case: Case, mode: Mode) -> Poses:
        protein, ligand = read_protein(case.protein), case.ligand()
        start = embed_conformer(ligand.mol, self.seed)
        center, size = search_box(protein.positions if mode == "blind" else ligand.mol.GetConformer().GetPositions())
        text = ligand_pdbqt(ligand.mol, start[None])[0]
        job = {
            "center": center, "size": size, "threads": 1, "exhaustiveness": self.exhaustiveness, "seed": self.seed,
            "ligands": [text], **({} if self.cpu_limit is None else {"cpu_limit": self.cpu_limit}),
        }  # fmt: skip
        places, energies = read_poses(self._run(job, receptor_pdbqt(protonated(protein))))
        return Poses(places[:, order_of(text, start)], -energies)

    def _run(self, job: dict[str, object], receptor: str) -> str:
        """Poses as PDBQT text. Raises RequestError with Vina's last words."""
        with TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "receptor.pdbqt").write_text(receptor)
            (folder / "job.json").write_text(json.dumps(job))
            done = subprocess.run(
                (sys.executable, "-m", "benchmarks.vina_docking", name), capture_output=True, text=True, check=False,
                cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            if done.returncode == -signal.SIGXCPU:
                raise RequestError(f"Vina was stopped after {self.cpu_limit} CPU s")
            if done.returncode:
                said = (done.stderr.strip() or "no message").splitlines()[-1]
                raise RequestError(f"Vina ended with code {done.returncode}: {said}")
            return (folder / "poses-1.pdbqt").read_text()


def heavy_atoms(model: str) -> Float64[np.ndarray, "n 3"]:
    """Positions [n, 3] of the heavy atoms of one PDBQT model, in the order of its lines."""
    atoms = [line for line in model.splitlines() if line.startswith(("ATOM", "HETATM"))]
    return np.array(
        [[float(line[at : at + 8]) for at in (30, 38, 46)] for line in atoms if line.split()[-1] not in ("H", "HD")]
    ).reshape(-1, 3)


def read_poses(text: str) -> tuple[Float64[np.ndarray, "p n 3"], Float64[np.ndarray, " p"]]:
    """Positions [P, n, 3] and energies [P] (kcal/mol) of Vina's PDBQT, heavy atoms only. Raises DataError for none."""
    models = text.split("MODEL ")[1:]
    if not models:
        raise DataError("Vina gave no pose")
    energies = [float(model.split("REMARK VINA RESULT:")[1].split()[0]) for model in models]
    return np.stack([heavy_atoms(model) for model in models]), np.array(energies)


def order_of(text: str, start: Float64[np.ndarray, "n 3"]) -> np.ndarray:
    """Which heavy atom of the PDBQT [n] each atom of the ligand is, told by where it was before docking.

    Vina keeps the order of lines, Meeko's is that of the torsion tree. Raises DataError where they do not correspond.
    """
    written = heavy_atoms(text)
    apart, order = cKDTree(written).query(start)
    if len(written) != len(start) or sorted(order) != list(range(len(start))) or apart.max() > SAME_PLACE:
        raise DataError("the atoms that Meeko wrote are not those of the ligand")
    return np.asarray(order)
