"""One ligand, alanine anilide, in every format that is read."""

import gzip
from collections.abc import Callable
from pathlib import Path

from rdkit import Chem

DATA = Path(__file__).parent / "data" / "docking"
SMILES = "C[C@H]([NH3+])C(=O)Nc1ccccc1"  # of alanine_anilide.*
MOL2, PDBQT = ((DATA / f"alanine_anilide.{ending}").read_text() for ending in ("mol2", "pdbqt"))
BLOCK = (DATA / "alanine_anilide.sdf").read_text().partition("$$$$")[0]


def with_hydrogens() -> Chem.Mol:
    return Chem.MolFromMolBlock(BLOCK, removeHs=False)


def pdb_text() -> str:
    return str(Chem.MolToPDBBlock(with_hydrogens()))


FORMATS: dict[str, tuple[str, Callable[[], str | bytes], str | None]] = {
    "sdf": ("a.sdf", lambda: BLOCK + "$$$$\n", None),
    "mol": ("a.mol", lambda: BLOCK, None),
    "v3000": ("a.sdf", lambda: Chem.MolToV3KMolBlock(with_hydrogens()) + "$$$$\n", None),
    "no hydrogens": ("a.sdf", lambda: Chem.MolToMolBlock(Chem.RemoveHs(with_hydrogens())), None),
    "kekulised": ("a.sdf", lambda: Chem.MolToMolBlock(with_hydrogens(), kekulize=True), None),
    "aromatic bonds": ("a.sdf", lambda: Chem.MolToMolBlock(with_hydrogens(), kekulize=False), None),
    "crlf": ("a.sdf", lambda: BLOCK.replace("\n", "\r\n"), None),
    "cr": ("a.sdf", lambda: BLOCK.replace("\n", "\r"), None),
    "gzip": ("a.sdf.gz", lambda: gzip.compress(BLOCK.encode()), None),
    "gzip by content": ("a.sdf", lambda: gzip.compress(BLOCK.encode()), None),
    "wrong ending": ("a.smi", lambda: BLOCK, None),
    "no ending": ("ligand", lambda: BLOCK, None),
    "mol2": ("a.mol2", lambda: MOL2, None),
    "mol2 gzip crlf": (
        "a.mol2.gz",
        lambda: gzip.compress(MOL2.replace("\n", "\r\n").encode()),
        None,
    ),
    "pdb": ("a.pdb", pdb_text, SMILES),
    "pdb without conect": ("a.pdb", lambda: "\n".join(x for x in pdb_text().split("\n") if x[:6] != "CONECT"), SMILES),
    "pdbqt": ("a.pdbqt", lambda: PDBQT, SMILES),
    "sdf with template": ("a.sdf", lambda: BLOCK, SMILES),
    "smiles list": ("a.smi", lambda: f"{SMILES}\n", None),
    "smiles with byte order mark": ("a.txt", lambda: f"\ufeffsmiles\tname\n{SMILES}\talanine anilide\n", None),
    "extended smiles": ("a.smi", lambda: f"{SMILES} |$;;;;;;;;;;;$| alanine anilide\n", None),
}
