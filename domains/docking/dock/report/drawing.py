"""The 2-D drawing of a ligand, with the place of every atom so that the page can mark some."""

from typing import Any

from rdkit import Chem, rdBase
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

SIZE = (400, 260)  # pixels
ORIGINAL = "place in the file"


def drawing(molblock: str) -> dict[str, Any] | None:
    """Drawing of a MOL block: ``svg``, ``width``, ``height`` and ``points``, [x, y] of every atom in pixels.

    Hydrogens are not drawn, their point is None. None where RDKit cannot make sense of the block.
    """
    try:
        with rdBase.BlockLogs():
            mol = Chem.MolFromMolBlock(molblock, removeHs=False)
            return None if mol is None else _draw(mol)
    except (ValueError, RuntimeError):
        return None


def _draw(mol: Chem.Mol) -> dict[str, Any]:
    count = mol.GetNumAtoms()
    for atom in mol.GetAtoms():
        atom.SetIntProp(ORIGINAL, atom.GetIdx())
    mol = Chem.RemoveHs(mol, sanitize=False)
    rdDepictor.Compute2DCoords(mol)
    drawer = rdMolDraw2D.MolDraw2DSVG(*SIZE)
    options: Any = drawer.drawOptions()
    options.clearBackground = False
    options.padding = 0.08
    options.fixedFontSize = 13
    rdMolDraw2D.PrepareAndDrawMolecule(drawer, mol)
    drawer.FinishDrawing()
    points: list[list[float] | None] = [None] * count
    for atom in mol.GetAtoms():
        place = drawer.GetDrawCoords(atom.GetIdx())
        points[atom.GetIntProp(ORIGINAL)] = [round(place.x, 1), round(place.y, 1)]
    return {"svg": drawer.GetDrawingText(), "width": SIZE[0], "height": SIZE[1], "points": points}
