"""Proteins from PDB or mmCIF files: the residues that a docking model sees, and everything else said in words.

Residues are those that have N, CA and C, as in the authors' preparation; hydrogens, waters and ions are dropped; all
that is no amino acid in a chain is left out by name.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Int64

from core.errors import RequestError
from domains.docking.chemistry.chains import ChainResidue, select_chains
from domains.docking.chemistry.features import protein_atom_features, residue_feature
from domains.docking.chemistry.monomers import monomers
from domains.docking.chemistry.neighbours import (
    ATOM_NEIGHBOURS,
    ATOM_RADIUS,
    RECEPTOR_NEIGHBOURS,
    RECEPTOR_RADIUS,
    nearest_edges,
)
from domains.docking.chemistry.pocket import Pocket
from domains.docking.chemistry.protein_files import read_structure_file
from domains.docking.chemistry.protein_report import ProteinReport
from domains.docking.chemistry.residues import SELENIUM, feature_name, letter


@dataclass(frozen=True, eq=False)
class Protein:
    """N residues with A heavy atoms, in the order of the chains in the file. Positions in Angstrom, frame of the file.

    names: of the residues, as the features use them: the name in the file where the networks know it (HIE, SEP), else
        the parent's (MSE: MET), else as in the file.
    chains, numbers: author's chain name and residue number with insertion code ("-5", "52A"). The two together are
        unique: where a chain gives a number twice, the residues from there on are of chain "A_2".
    letters: one-letter codes of the residues or their parents, "-" where unknown.
    ca: [N, 3]; atom_names, elements ("C", "Se"), positions [A, 3], residue [A]: of the heavy atoms.
    origin: [N] number of every residue in the protein before it was cropped to a pocket.
    notes: sentences on everything that was removed, changed or is doubtful; report: the same, structured.
    """

    names: tuple[str, ...]
    chains: tuple[str, ...]
    numbers: tuple[str, ...]
    letters: tuple[str, ...]
    ca: Float64[np.ndarray, "n 3"]
    atom_names: tuple[str, ...]
    elements: tuple[str, ...]
    positions: Float64[np.ndarray, "a 3"]
    residue: Int64[np.ndarray, " a"]
    origin: Int64[np.ndarray, " n"]
    report: ProteinReport

    @property
    def n_residues(self) -> int:
        return len(self.names)

    @property
    def n_atoms(self) -> int:
        return len(self.atom_names)

    @cached_property
    def notes(self) -> tuple[str, ...]:
        return self.report.sentences()

    @cached_property
    def center(self) -> Float64[np.ndarray, " 3"]:
        """Mean C-alpha position, the origin of the networks' frame."""
        return self.ca.mean(axis=0)

    def label(self, residue: int) -> str:
        """Name, chain and number of a residue: ``ASP A 52A``."""
        return " ".join(part for part in (self.names[residue], self.chains[residue], self.numbers[residue]) if part)

    def chain_sequences(self) -> dict[str, str]:
        """One-letter sequence of every chain, residue for residue: concatenated they are ``letters``.

        A language model should see whole chains: take it from the protein before the crop, and its rows at ``origin``.
        """
        sequences: dict[str, list[str]] = {}
        for chain, code in zip(self.chains, self.letters, strict=True):
            sequences.setdefault(chain, []).append(code)
        return {chain: "".join(codes) for chain, codes in sequences.items()}

    def crop(self, pocket: Pocket) -> "Protein":
        """The residues, whole, of which any heavy atom lies in the pocket.

        Any atom, not the C-alpha: a long side chain that lines the pocket counts, wherever its backbone runs.

        Raises:
            RequestError: nothing of the protein is in the pocket.
        """
        inside = np.zeros(self.n_residues, dtype=bool)
        inside[self.residue[pocket.contains(self.positions)]] = True
        if not inside.any():
            low, high = (" ".join(f"{x:.1f}" for x in end) for end in (self.positions.min(0), self.positions.max(0)))
            raise RequestError(
                f"pocket: no atom of the protein lies in the {pocket}; the protein spans ({low}) to ({high}): "
                "are both in the same frame?"
            )
        report = replace(self.report, pocket=f"{inside.sum()} of {self.n_residues} residues are in the {pocket}")
        return replace(self.keep(inside), report=report)

    def keep(self, chosen: Bool[np.ndarray, " n"]) -> "Protein":
        """The chosen residues only."""
        kept, atoms = np.flatnonzero(chosen), np.flatnonzero(chosen[self.residue])
        return replace(
            self,
            names=tuple(self.names[i] for i in kept),
            chains=tuple(self.chains[i] for i in kept),
            numbers=tuple(self.numbers[i] for i in kept),
            letters=tuple(self.letters[i] for i in kept),
            ca=self.ca[kept],
            atom_names=tuple(self.atom_names[i] for i in atoms),
            elements=tuple(self.elements[i] for i in atoms),
            positions=self.positions[atoms],
            residue=(np.cumsum(chosen) - 1)[self.residue[atoms]],
            origin=self.origin[kept],
        )


def read_protein(path: str | Path, *, pocket: Pocket | None = None) -> Protein:
    """The protein of a PDB or mmCIF file, plain or gzipped; of several models the first.

    Of alternate locations one conformer per residue is taken, the one with the highest total occupancy, the first
    letter of equals. See ``Protein`` for names and numbers, ``Protein.crop`` for the pocket.

    Raises:
        RequestError: the file cannot be read, has no protein or only its C-alphas, has impossible coordinates, or
            nothing of it is in the pocket.
    """
    file = read_structure_file(path)
    try:
        residues, report = select_chains(monomers(file.rows), file)
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from error
    protein = _protein(residues, report)
    return protein if pocket is None else protein.crop(pocket)


def receptor_arrays(protein: Protein) -> dict[str, np.ndarray]:
    """``types`` [N], ``positions`` [N, 3] of the C-alphas, ``edges`` [2, E]: row 0 receives from row 1.

    A residue receives from the nearest 24 within 15 A, from the nearest one where there is none so near (DiffDock).
    """
    return {
        "types": np.array([residue_feature(name) for name in protein.names], dtype=np.int64),
        "positions": protein.ca,
        "edges": nearest_edges(protein.ca, RECEPTOR_RADIUS, RECEPTOR_NEIGHBOURS, least=1),
    }


def atom_arrays(protein: Protein) -> dict[str, np.ndarray]:
    """``features`` [A, 4], ``positions`` [A, 3], ``edges`` [2, E] and ``residue`` [A] of the heavy atoms.

    Each atom has at most its 8 nearest within 5 A as neighbours. As in the authors' graphs the atom itself stands in
    row 1 and its neighbours in row 0: an atom sends to its neighbours, and may receive from more than 8.
    """
    residues = [protein.names[i] for i in protein.residue]
    return {
        "features": protein_atom_features(residues, protein.elements, protein.atom_names),
        "positions": protein.positions,
        "edges": nearest_edges(protein.positions, ATOM_RADIUS, ATOM_NEIGHBOURS)[::-1].copy(),
        "residue": protein.residue,
    }


def _protein(residues: list[ChainResidue], report: ProteinReport) -> Protein:
    names: list[str] = []
    elements: list[str] = []
    for residue in residues:
        for row in residue.monomer.atoms:
            swap = SELENIUM.get(residue.monomer.name) if row.atom == "SE" else None
            names.append(swap or row.atom)
            elements.append("S" if swap else row.element)
    sizes = [len(residue.monomer.atoms) for residue in residues]
    return Protein(
        names=tuple(feature_name(residue.monomer.name, residue.parent) for residue in residues),
        chains=tuple(residue.chain for residue in residues),
        numbers=tuple(residue.monomer.number for residue in residues),
        letters=tuple(letter(residue.monomer.name, residue.parent) for residue in residues),
        ca=np.array([residue.monomer.positions["CA"] for residue in residues], dtype=np.float64),
        atom_names=tuple(names),
        elements=tuple(elements),
        positions=np.array([row.position for residue in residues for row in residue.monomer.atoms], dtype=np.float64),
        residue=np.repeat(np.arange(len(residues)), sizes),
        origin=np.arange(len(residues)),
        report=report,
    )
