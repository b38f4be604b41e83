"""Which probe points a ligand touches, also where other copies of the same chain would bind the same ligand."""

import numpy as np
import torch
from jaxtyping import Bool, Float64
from scipy.spatial import cKDTree

from core.geometry.rigid import superpose
from domains.docking.chemistry.protein import Protein

CONTACT = 5.0  # Angstrom between heavy atoms of a chain and its ligand
MATCHED = 0.8  # share of the shorter chain's residues that its copy has under the same numbers
COPY_RMSD = 2.0  # Angstrom between the C-alphas of copies


def touched(
    points: Float64[np.ndarray, "p 3"], ligand: Float64[np.ndarray, "n 3"], radius: float
) -> Bool[np.ndarray, " p"]:
    """Which points lie within ``radius`` (Angstrom) of a ligand atom; the nearest point counts in any case."""
    distance, _ = cKDTree(ligand).query(points)
    return distance <= max(radius, float(distance.min()))


def ligand_copies(protein: Protein, ligand: Float64[np.ndarray, "n 3"]) -> list[Float64[np.ndarray, "n 3"]]:
    """The ligand, then its images in other copies of the chains that it touches (homo-oligomers)."""
    chains: dict[str, list[int]] = {}
    for number, chain in enumerate(protein.chains):
        chains.setdefault(chain, []).append(number)
    distance, _ = cKDTree(ligand).query(protein.positions, distance_upper_bound=CONTACT)
    touching = sorted({protein.chains[i] for i in protein.residue[np.isfinite(distance)]})
    images = [ligand]
    for chain in touching:
        for other, residues in chains.items():
            move = None if other == chain else _move(protein, chains[chain], residues)
            if move is not None:
                images.append(ligand @ move[0].T + move[1])
    return images


def _move(protein: Protein, source: list[int], target: list[int]) -> tuple[np.ndarray, np.ndarray] | None:
    """Rotation and shift that lay one chain on another; None where they are no copies."""
    key = {(protein.numbers[i], protein.names[i]): i for i in target}
    pairs = [(i, key[k]) for i in source if (k := (protein.numbers[i], protein.names[i])) in key]
    if len(pairs) < max(3, MATCHED * min(len(source), len(target))):
        return None
    here, there = (torch.from_numpy(protein.ca[list(side)])[None] for side in zip(*pairs, strict=True))
    rotation, shift = superpose(here, there, torch.ones(1, len(pairs), dtype=torch.bool))
    moved = here @ rotation.mT + shift[:, None]
    if float((moved - there).square().sum(-1).mean().sqrt()) > COPY_RMSD:
        return None
    return rotation[0].numpy(), shift[0].numpy()
