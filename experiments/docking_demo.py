"""Docking from nothing: train a small model on one complex for about two minutes, then dock that complex again.

    python -m experiments.docking_demo -o out/demo/docking

The model has seen the answer and is told the pocket: this shows the machinery, not what docking can do. What is
finished is not done again.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.files import write_text
from domains.docking.chemistry.ligand import read_coordinates, read_ligand
from domains.docking.chemistry.pdb_block import pdb_block
from domains.docking.chemistry.pocket import Around
from domains.docking.chemistry.protein import read_protein
from domains.docking.metrics.rmsd import symmetry_rmsd

HERE = Path(__file__).parent
SAID = "a model trained for two minutes on this very complex: it shows the machinery, not what docking can do"
NAME = "2p70"
COMPLEX = HERE.parent / "tests" / "data" / "docking" / "complexes" / NAME
PROTEIN, LIGAND = COMPLEX / "protein.pdb.gz", COMPLEX / "ligand.sdf"
MARGIN = 8.0  # Angstrom around the true pose: the pocket that is trained on and docked into
POSES = 10


@dataclass(frozen=True)
class DockingDemo:
    """What the demo shows. report: report.html; rmsd: [POSES] of every pose in order of rank from the true one,
    Angstrom, corrected for symmetry; said: what to say beside any of it."""

    report: Path
    rmsd: tuple[float, ...]
    said: str = SAID


def run_docking_demo(out: Path, threads: int = 1) -> DockingDemo:
    """Train in OUT/run and dock into OUT/docked. Raises RuntimeError where a command fails."""
    out = out.resolve()
    complexes, run, docked = (out / name for name in ("complexes", "run", "docked"))
    _write_pocket(complexes / NAME)
    config = str(HERE / "docking" / "demo.yaml")
    _disco(threads, "train", config, "-o", str(run), f"model.data.folder={complexes}")
    pocket = ("--pocket", str(LIGAND), "--margin", str(MARGIN))
    files = ("--protein", str(PROTEIN), "--ligand", str(LIGAND), "--name", NAME, *pocket)
    wanted = ("--poses", str(POSES), "--check", "--trajectory", "--workers", "1")
    _disco(threads, "dock", *files, "--model", str(run / "model"), "-o", str(docked), *wanted)
    return DockingDemo(docked / "report.html", _rmsd(docked / NAME))


def _write_pocket(folder: Path) -> None:
    """A training complex of the pocket's residues alone, as ``disco dock --pocket`` crops them."""
    folder.mkdir(parents=True, exist_ok=True)
    pocket = read_protein(PROTEIN, pocket=Around(read_coordinates(LIGAND), MARGIN))
    write_text(folder / "protein.pdb", pdb_block(pocket))
    shutil.copyfile(LIGAND, folder / LIGAND.name)


def _rmsd(folder: Path) -> tuple[float, ...]:
    true = read_ligand(LIGAND)
    assert true.coordinates is not None
    poses = json.loads((folder / "result.json").read_text(encoding="utf-8"))["poses"]
    places = np.stack([read_coordinates(folder / pose["file"]) for pose in poses])
    return tuple(symmetry_rmsd(true.mol, true.coordinates, places).values.tolist())


def _disco(threads: int, *arguments: str) -> None:
    """One call of the command line; what it says goes to stderr."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "core.cli", *arguments]
    code = subprocess.run(command, env=environment, cwd=HERE.parent, stdout=sys.stderr, check=False).returncode
    if code:
        raise RuntimeError(f"docking: '{' '.join(command)}' ended with {code}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=Path("out/demo/docking"))
    demo = run_docking_demo(parser.parse_args().out)
    print(f"RMSD of rank 1: {demo.rmsd[0]:.2f} A, median {np.median(demo.rmsd):.2f} A ({SAID}). Look at {demo.report}")


if __name__ == "__main__":
    main()
