"""What pointer latents can point at: the nodes of a complex, ligand atoms first, then residues."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial.distance import cdist

from domains.docking.complex import Complex


@dataclass(frozen=True)
class Nodes:
    """kinds: element of atoms, with `` ring`` behind for those in rings, and residue names; atom, ring: [K];
    distance: [K] Angstrom, of atoms from the ligand's centroid, of residues the nearest heavy atom's from the ligand;
    reach: [n, N] Angstrom, nearest heavy atom of every residue from every ligand atom."""

    kinds: tuple[str, ...]
    atom: Bool[np.ndarray, " k"]
    ring: Bool[np.ndarray, " k"]
    distance: Float[np.ndarray, " k"]
    reach: Float[np.ndarray, "n r"]

    @property
    def size(self) -> int:
        return len(self.kinds)


def nodes_of(each: Complex) -> Nodes:
    """The nodes of a complex whose true pose is known. Raises ValueError where it is not."""
    truth, protein = each.ligand.coordinates, each.receptor.protein
    if truth is None:
        raise ValueError(f"{each.name}: its true pose is not known")
    reach = np.full((protein.n_residues, len(truth)), np.inf)
    np.minimum.at(reach, protein.residue, cdist(protein.positions, truth))
    in_ring = np.array([atom.IsInRing() for atom in each.ligand.mol.GetAtoms()], dtype=bool)
    atoms = tuple(
        atom.GetSymbol() + (" ring" if ring else "")
        for atom, ring in zip(each.ligand.mol.GetAtoms(), in_ring, strict=True)
    )
    return Nodes(
        atoms + protein.names,
        np.repeat([True, False], [len(truth), protein.n_residues]),
        np.concatenate([in_ring, np.zeros(protein.n_residues, dtype=bool)]),
        np.concatenate([np.linalg.norm(truth - truth.mean(0), axis=1), reach.min(1)]),
        reach.T,
    )
