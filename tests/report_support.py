"""Folders as docking leaves them, made up from true complexes: for the tests of the report."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Geometry import Point3D

from tests.support import DOCKING_DATA

# What a hostile file would call its ligand.
EVIL = '<img src=x onerror="window.evil=1"></script><script>window.evil=2</script>\'&amp;{{data}}'


def true_ligand(name: str) -> Chem.Mol:
    return Chem.MolFromMolFile(str(DOCKING_DATA / "complexes" / name / "ligand.sdf"))


def protein_text(name: str) -> str:
    return gzip.decompress((DOCKING_DATA / "complexes" / name / "protein.pdb.gz").read_bytes()).decode()


def nearest_residue(pdb: str, point: np.ndarray) -> dict[str, Any]:
    """The latent of a residue: that whose C-alpha is nearest to a point."""
    lines = [line for line in pdb.splitlines() if line.startswith("ATOM") and line[12:16].strip() == "CA"]
    places = np.array([[float(line[k : k + 8]) for k in (30, 38, 46)] for line in lines])
    line = lines[best := int(np.linalg.norm(places - point, axis=1).argmin())]
    chain, number = line[21], line[22:27].strip()
    name = f"{line[17:20]} {chain} {number}"
    return {"kind": "residue", "name": name, "chain": chain, "number": number, "point": places[best].tolist()}


def moved(mol: Chem.Mol, places: np.ndarray) -> Chem.Mol:
    mol = Chem.Mol(mol)
    for atom, place in enumerate(places.tolist()):
        mol.GetConformer().SetAtomPosition(atom, Point3D(*place))
    return mol


def trajectory(mol: Chem.Mol, places: np.ndarray, rng: np.random.Generator) -> Chem.Mol:
    """Twenty steps from a place far away to one 0.2 A beside ``places``, then, minimised, these: a conformer each."""
    away = np.linspace(1, 0, 21)[:, None, None] ** 2
    frames = places + away * (rng.normal(size=3) * 12) + away * rng.normal(size=(21, *places.shape)) * 0.3
    frames = np.concatenate([frames + np.array([0.2, 0.0, 0.0]), places[None]])
    film = Chem.Mol(mol)
    film.RemoveAllConformers()
    for frame in frames:
        film.AddConformer(moved(mol, frame).GetConformer(), assignId=True)
    return film


def write_pose(
    folder: Path, mol: Chem.Mol, rank: int, pdb: str, rng: np.random.Generator, full: bool
) -> dict[str, Any]:
    """The true pose, turned and shifted a little more with every rank."""
    true = mol.GetConformer().GetPositions()
    turn, _ = np.linalg.qr(np.eye(3) + 0.15 * (rank - 1) * rng.normal(size=(3, 3)))
    turn *= np.sign(np.diag(turn))
    places = (true - true.mean(0)) @ turn + true.mean(0) + rng.normal(size=3) * 0.8 * (rank - 1)
    Chem.MolToMolFile(moved(mol, places), str(folder / f"rank{rank}.sdf"))
    (folder / f"rank{rank}.sdf").open("a").write("> <rank>\n1\n\n$$$$\n")
    confidence = round(0.9 - 0.75 * (rank - 1) + float(rng.normal()) * 0.05, 3)
    atom = int(rng.integers(len(true)))
    name = f"atom {atom + 1} ({mol.GetAtomWithIdx(atom).GetSymbol()})"
    named = {"kind": "atom", "name": name, "atom": atom, "point": places[atom].tolist()}
    pose: dict[str, Any] = {
        "rank": rank, "sample": 5 - rank, "confidence": confidence,
        "confidence_band": "high" if confidence > 0 else "moderate" if confidence > -1.5 else "low",
        "latents": [{"slot": 1, **nearest_residue(pdb, places.mean(0))}, {"slot": 2, **named}],
        "stereo": "kept", "protein_distance": 2.9 - 0.3 * rank, "self_distance": 1.31, "clashes": max(0, rank - 2),
        "strain": 4.2 if rank < 3 else None, "flags": ["clash", "strain"] if rank > 2 else [],
        "file": f"rank{rank}.sdf",
    }  # fmt: skip
    if full:
        names = (
            "mol_pred_loaded",
            "sanitization",
            "bond_lengths",
            "internal_steric_clash",
            "minimum_distance_to_protein",
        )
        pose["checks"] = {name: name != "minimum_distance_to_protein" or rank < 3 for name in names}
        pose["pb_valid"] = rank < 3
        pose["minimized"] = {"force_field": "MMFF94s", "before": 12.1, "after": -3.4, "moved": 0.6}
        pose["rescores"] = {"vina": -7.1 + rank, "gnina_cnn_score": 0.4, "gnina_cnn_affinity": None}
        if rank == 1:
            pose["trajectory"] = "rank1_reverseprocess.pdb"
            Chem.MolToPDBFile(trajectory(mol, places, rng), str(folder / pose["trajectory"]))
    return pose


def write_complex(
    folder: Path, source: str, protein_file: str, *, full: bool = False, **changes: Any
) -> dict[str, Any]:
    """A folder as docking leaves it."""
    folder.mkdir(parents=True)
    mol, pdb = true_ligand(source), protein_text(source)
    protein_path = folder / protein_file
    protein_path.parent.mkdir(exist_ok=True)
    protein_path.write_text(pdb)
    rng = np.random.default_rng(sum(folder.name.encode()))
    record: dict[str, Any] = {
        "schema": 1, "id": folder.name,
        "protein": {"source": f"{source}.pdb", "file": protein_file, "residues": 126, "notes": ["12 waters left out"]},
        "ligand": {"source": "ligand.sdf", "name": source.upper(), "smiles": Chem.MolToSmiles(mol),
                   "heavy_atoms": mol.GetNumAtoms(), "rotatable_bonds": 5, "notes": []},
        "pocket": None, "model": {"name": "disco-small", "sha256": "0123456789abcdef" * 4},
        "settings": {"poses": 4, "steps": 20, "seed": 7, "sampler": "low-temperature-disco", "guidance": 0.0},
        "seconds": 12.3, "notes": [],
        "poses": [write_pose(folder, mol, rank, pdb, rng, full) for rank in range(1, 5)], **changes,
    }  # fmt: skip
    (folder / "poses.sdf").write_text("".join((folder / pose["file"]).read_text() for pose in record["poses"]))
    (folder / "result.json").write_text(json.dumps(record))
    return record


def write_run(out: Path) -> None:
    """Three complexes, two of them with the same protein, one with all extras, and two failures."""
    write_complex(out / "1bvi_a", "1bvi", "../proteins/1bvi.pdb", full=True)
    write_complex(out / "1bvi_b", "1bvi", "../proteins/1bvi.pdb")
    write_complex(out / "4kxj", "4kxj", "../proteins/4kxj.pdb")
    with (out / "failures.csv").open("w", newline="") as handle:
        rows = [
            ("id", "ligand", "stage", "reason"),
            ("bad1", "lib.sdf", "DataError", "record 3: no atoms"),
            (EVIL, "x", "E", EVIL),
        ]
        csv.writer(handle).writerows(rows)
