"""Prepared complexes as bytes, and the folder that keeps them: nothing is unpickled, damage is noticed.

A file is the SHA-256 of what follows, then compressed safetensors: arrays, JSON of names and notes, and the ligand in
RDKit's own binary format, which holds atoms, bonds, properties and doubles and nothing that is run when it is read.
"""

import hashlib
import json
import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import rdkit
import torch
from rdkit import Chem
from safetensors.numpy import load, save
from torch import Tensor

from core.cache import cache_folder
from core.errors import StorageError
from core.files import write_atomically
from domains.docking.chemistry.ligand import Ligand
from domains.docking.chemistry.protein import Protein
from domains.docking.chemistry.protein_report import ProteinReport
from domains.docking.complex import Complex, Receptor
from domains.docking.graph import complex_graph, ligand_arrays

logger = logging.getLogger("disco")
DIGEST = 32  # bytes of SHA-256 before the content
ROOT = Path(__file__).parents[3]
CODE = (  # what the result of a preparation follows from
    "domains/docking/chemistry/*.py", "domains/docking/data/prepare.py", "domains/docking/data/store.py",
    "domains/docking/complex.py", "domains/docking/graph.py", "domains/docking/pose.py", "domains/docking/torsion.py",
    "core/geometry/rigid.py", "core/rng.py",
)  # fmt: skip
WORDS = ("names", "chains", "numbers", "letters", "atom_names", "elements")
NUMBERS = ("ca", "positions", "residue", "origin")
MOL = int(Chem.PropertyPickleOptions.AllProps | Chem.PropertyPickleOptions.CoordsAsDouble)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A complex, and the conformers laid on its true pose, each [n, 3] in the frame of the graph; the first is the
    graph's own ``matched``."""

    complex: Complex
    conformers: tuple[Tensor, ...]


@cache
def version() -> str:
    """Checksum of the code that prepares and of the libraries whose numbers it uses: what was prepared by others is
    never taken for its own."""
    digest = hashlib.sha256(f"rdkit {rdkit.__version__} torch {torch.__version__} numpy {np.__version__}".encode())
    for path in sorted(path for pattern in CODE for path in ROOT.glob(pattern)):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


class Cache:
    """A folder of prepared complexes by key; without a folder nothing is kept. ``default`` is that of the user's cache.

    What cannot be read or written is said once, and the complexes are prepared as if there was no cache.
    """

    def __init__(self, folder: str = "default") -> None:
        root = cache_folder() / "docking" if folder == "default" else Path(folder).expanduser()
        self.folder = root / version() if folder else None
        self._warned = False

    def path(self, key: str) -> Path | None:
        """File of a key."""
        return None if self.folder is None else self.folder / key[:2] / key

    def load(self, key: str) -> Prepared | None:
        """What is kept; None where nothing is, or something damaged (which is said)."""
        path = self.path(key)
        try:
            content = b"" if path is None else path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self.warn(f"cannot read {path} ({error.strerror})")
            return None
        if path is None:
            return None
        data = content[DIGEST:]
        if content[:DIGEST] != hashlib.sha256(data).digest():
            logger.warning("%s is damaged: the complex is prepared again", path)
            return None
        return decode(data)

    def save(self, key: str, data: bytes) -> str:
        """Keep the bytes of ``encode``; what went wrong, "" for nothing."""
        path = self.path(key)
        if path is None:
            return ""
        try:
            write_atomically(path, lambda file: file.write_bytes(hashlib.sha256(data).digest() + data))
        except (StorageError, OSError) as error:
            return str(error)
        return ""

    def warn(self, problem: str) -> None:
        """Say, once, that the cache is of no use."""
        if problem and not self._warned:
            self._warned = True
            logger.warning("%s; going on without a cache of prepared complexes (model.data.cache)", problem)


def encode(prepared: Prepared) -> bytes:
    """Everything that ``decode`` needs to give the same complex, but for residue embeddings, which are no part of it.

    Raises ValueError for a receptor that was cut to a pocket.
    """
    each, protein, ligand = prepared.complex, prepared.complex.receptor.protein, prepared.complex.ligand
    if each.receptor.whole is not protein:
        raise ValueError(f"{each.name}: only whole receptors are kept")
    about = {
        "name": each.name, "ligand": ligand.name, "notes": ligand.notes, "report": asdict(protein.report),
        "protein": {name: getattr(protein, name) for name in WORDS}, "conformers": len(prepared.conformers),
    }  # fmt: skip
    residues, atoms = each.receptor.residues, each.receptor.atoms
    arrays = {f"protein.{name}": getattr(protein, name) for name in NUMBERS}
    arrays |= {"residues.types": residues["types"], "residues.edges": residues["edges"]}
    arrays |= {"atoms.features": atoms["features"], "atoms.edges": atoms["edges"]}
    arrays |= {f"ligand.{name}": array for name, array in ligand_arrays(each.graph, np.zeros(3, np.float32)).items()}
    arrays |= {f"conformer.{k}": prepared.conformers[k].numpy() for k in range(1, len(prepared.conformers))}
    if ligand.coordinates is not None:
        arrays["coordinates"] = ligand.coordinates
    arrays["mol"] = np.frombuffer(ligand.mol.ToBinary(MOL), dtype=np.uint8)
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    return zlib.compress(save({name: _narrow(array) for name, array in arrays.items()}), 1)


def decode(data: bytes) -> Prepared:
    """The complex of bytes made by ``encode``; equal to it bit by bit."""
    arrays = {name: _wide(array) for name, array in load(zlib.decompress(data)).items()}
    about = json.loads(arrays["about"].tobytes())
    values: dict[str, Any] = {name: tuple(about["protein"][name]) for name in WORDS}
    values |= {name: arrays[f"protein.{name}"] for name in NUMBERS}
    protein = Protein(**values, report=_report(about["report"]))
    centre = protein.center
    residues = {
        "types": arrays["residues.types"], "positions": protein.ca - centre, "edges": arrays["residues.edges"],
    }  # fmt: skip
    atoms = {
        "features": arrays["atoms.features"], "positions": protein.positions - centre, "edges": arrays["atoms.edges"],
        "residue": protein.residue,
    }  # fmt: skip
    mol = Chem.Mol(arrays["mol"].tobytes())  # type: ignore[call-overload]
    ligand = Ligand(about["ligand"], mol, arrays.get("coordinates"), tuple(about["notes"]))
    parts = {name.removeprefix("ligand."): array for name, array in arrays.items() if name.startswith("ligand.")}
    graph = complex_graph(ligand=parts, receptor=residues, atoms=atoms)
    receptor = Receptor(protein, protein, centre, residues, atoms)
    further = [torch.from_numpy(arrays[f"conformer.{k}"]) for k in range(1, about["conformers"])]
    return Prepared(Complex(about["name"], receptor, ligand, graph), (graph["ligand"].matched, *further))


def _report(values: Mapping[str, Any]) -> ProteinReport:
    return ProteinReport(**{f.name: _tupled(values[f.name]) for f in fields(ProteinReport)})


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _narrow(array: np.ndarray) -> np.ndarray:
    """Integers in as few bytes as hold them."""
    if array.dtype != np.int64:
        return np.ascontiguousarray(array)
    small = next((kind for kind in (np.int16, np.int32) if np.all(np.abs(array) <= np.iinfo(kind).max)), np.int64)
    return np.ascontiguousarray(array, dtype=small)


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.int64 if array.dtype in (np.int16, np.int32) else array.dtype)  # a copy that may be written
