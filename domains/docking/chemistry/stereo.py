"""Whether a pose has the stereochemistry of its ligand."""

import numpy as np
from rdkit import Chem

CIS = (Chem.BondStereo.STEREOZ, Chem.BondStereo.STEREOCIS)
TRANS = (Chem.BondStereo.STEREOE, Chem.BondStereo.STEREOTRANS)
HANDED = (Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW)


def same_stereo(mol: Chem.Mol, posed: Chem.Mol) -> bool:
    """Whether the stereocentres (R/S) and double bonds (E/Z) that ``mol`` specifies are the same in the pose.

    They are read off the coordinates of the first conformer of ``posed``, whose atoms and bonds are those of ``mol`` in
    the same order; its own marks are not looked at. Atom by atom: two centres that trade their handedness differ, also
    where symmetry makes it the same molecule. What ``mol`` leaves open does not count; a specified centre that the pose
    flattens is not the same. Coordinates that are not finite have no stereochemistry.
    """
    places = np.asarray(posed.GetConformer().GetPositions())
    if not np.isfinite(places).all():
        return False
    centres = Chem.Mol(mol)
    Chem.AssignStereochemistry(centres, cleanIt=True, force=True)  # tags of CH2 and CH3 say nothing
    found = Chem.Mol(posed)
    Chem.AssignAtomChiralTagsFromStructure(found)
    atoms = zip(centres.GetAtoms(), found.GetAtoms(), strict=True)
    if any(a.GetChiralTag() in HANDED and a.GetChiralTag() != b.GetChiralTag() for a, b in atoms):
        return False
    return all(_is_cis(bond, places) == (bond.GetStereo() in CIS) for bond in mol.GetBonds() if _is_marked(bond))


def _is_marked(bond: Chem.Bond) -> bool:
    return bond.GetStereo() in CIS + TRANS


def _is_cis(bond: Chem.Bond, places: np.ndarray) -> bool:
    """Whether the two atoms that define E and Z lie on one side of the double bond."""
    first, last = bond.GetStereoAtoms()
    begin, end = places[bond.GetBeginAtomIdx()], places[bond.GetEndAtomIdx()]
    axis = end - begin
    return bool(np.cross(axis, places[first] - begin) @ np.cross(axis, places[last] - end) > 0)
