"""One protein with one ligand, ready for the networks: what was read, and the graph made from it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from torch_geometric.data import HeteroData

from core.errors import DataError
from domains.docking.chemistry.conformer import ligand_conformer, pick
from domains.docking.chemistry.features import bond_graph, ligand_features
from domains.docking.chemistry.ligand import Ligand
from domains.docking.chemistry.protein import Protein, atom_arrays, receptor_arrays
from domains.docking.chemistry.rotatable import rotatable_bonds
from domains.docking.graph import complex_graph
from domains.docking.language import LanguageModel
from domains.docking.pose import single_torsions
from domains.docking.torsion import nesting


@dataclass(frozen=True, eq=False)
class Receptor:
    """A protein prepared once for any number of ligands. Positions of the arrays are relative to ``centre`` [3].

    protein: what the networks see, perhaps cut to a pocket; whole: all of it, which poses may clash with.
    """

    protein: Protein
    whole: Protein
    centre: Float[np.ndarray, " 3"]
    residues: Mapping[str, np.ndarray]
    atoms: Mapping[str, np.ndarray]

    @staticmethod
    def of(protein: Protein, language: LanguageModel | None = None, whole: Protein | None = None) -> "Receptor":
        """Graph arrays of a protein, with residue embeddings where a language model is given.

        whole: the protein before it was cut to a pocket; the language model sees whole chains.
        """
        centre, full = protein.center, whole or protein
        residues, atoms = dict(receptor_arrays(protein)), dict(atom_arrays(protein))
        for arrays in (residues, atoms):
            arrays["positions"] = arrays["positions"] - centre
        if language is not None:
            embeddings = language.residue_embeddings(full.chain_sequences(), full.n_residues)
            residues["language"] = embeddings[protein.origin]
        return Receptor(protein, full, centre, residues, atoms)


@dataclass(frozen=True, eq=False)
class Complex:
    """A receptor and a ligand with their graph, whose origin is the receptor's centre."""

    name: str
    receptor: Receptor
    ligand: Ligand
    graph: HeteroData

    @property
    def nodes(self) -> int:
        """Ligand atoms and residues: how many categories a pointer latent has here."""
        return len(self.graph["ligand"].x) + len(self.graph["receptor"].x)

    def node_name(self, node: int) -> str:
        """What a pointer latent points at: ``atom 7 (N)`` of the ligand, counted from 1, or ``ASP A 52``."""
        atoms = self.ligand.n_atoms
        if node < atoms:
            return f"atom {node + 1} ({self.ligand.mol.GetAtomWithIdx(node).GetSymbol()})"
        return self.receptor.protein.label(node - atoms)


def make_complex(
    name: str, receptor: Receptor, ligand: Ligand, seed: int = 0, *, with_pose: bool = False, turn_double: bool = False
) -> Complex:
    """Complex with a conformer of the ligand that follows from ``seed``.

    turn_double: double and triple bonds outside rings are rotatable too; with_pose: the ligand's coordinates are its
    true pose: keep it, and the conformer laid on it by its torsions (the clean sample of training, paper section 4.1).
    Raises RequestError where no conformer can be made, DataError where a pose is asked for and the ligand has no
    coordinates.
    """
    index, kinds = bond_graph(ligand.mol)
    bonds, moves = rotatable_bonds(ligand.n_atoms, index, None if turn_double else kinds)
    parent, group = nesting(moves)
    arrays = {
        "features": ligand_features(ligand.mol), "bonds": index, "kinds": kinds,
        "torsions": bonds, "parent": parent, "group": group,
    }  # fmt: skip
    if with_pose:
        if ligand.coordinates is None:
            raise DataError(f"{name}: the ligand has no 3-D coordinates, and its true pose is needed")
        crystal = ligand.coordinates - receptor.centre
        conformer, matched = pick(ligand.mol, crystal, single_torsions(bonds, parent, group), seed)
        arrays |= {"positions": conformer, "crystal": crystal, "matched": matched}
    else:
        arrays["positions"], notes = ligand_conformer(ligand, seed)
        ligand = replace(ligand, notes=(*ligand.notes, *notes))
    return Complex(
        name, receptor, ligand, complex_graph(ligand=arrays, receptor=receptor.residues, atoms=receptor.atoms)
    )
