"""Random surroundings of a ligand: a denoiser that docks into regions sees no protein twice alike."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float64
from scipy.spatial import cKDTree

from core.rng import SampleStreams
from domains.docking.chemistry.neighbours import RECEPTOR_NEIGHBOURS, RECEPTOR_RADIUS, nearest_edges
from domains.docking.chemistry.pocket import Around, Pocket
from domains.docking.complex import Complex, Receptor
from domains.docking.config import CropConfig
from domains.docking.graph import complex_graph, ligand_arrays


def random_crop(
    whole: Complex, config: CropConfig, number: int, around: Float64[np.ndarray, "n 3"] | None = None
) -> Complex:
    """What lies within a random margin of the displaced true pose, or of another pose ``around`` (Angstrom, frame of
    the protein's file); it follows from the sample's ``number`` alone.

    The pose that the margin is measured from is shifted as a whole by a normal vector, because the place that a user
    or a site finder gives is never quite that of the ligand. Raises ValueError where the true pose is not known.
    """
    centre, protein = whole.ligand.coordinates if around is None else around, whole.receptor.protein
    if centre is None:
        raise ValueError(f"{whole.name}: its true pose is not known")
    streams = SampleStreams(0, [number], "crop")
    all_of_it, share = streams.uniform(2, dtype=torch.float64)[0].tolist()
    shift = config.shift * streams.normal(3, dtype=torch.float64)[0].numpy()
    low, high = config.margin
    inside = np.ones(protein.n_atoms, dtype=bool)
    if all_of_it >= config.whole:
        inside = Around(centre + shift, low + (high - low) * share).contains(protein.positions)
    if not inside.any():  # shifted into the void, from a ligand on the surface, or a pose that is there
        away = cKDTree(centre).query(protein.positions)[0].min()
        inside = Around(centre, max(high, away + low)).contains(protein.positions)
    kept = np.zeros(protein.n_residues, dtype=bool)
    kept[protein.residue[inside]] = True
    atoms = int(kept[protein.residue].sum())
    return _cut(whole, kept, config.jitter * streams.normal(atoms, 3)[0].double().numpy())


def surroundings(whole: Complex, config: CropConfig) -> Complex:
    """What random crops can reach, but for shifts of more than four standard deviations."""
    truth = whole.ligand.coordinates
    if truth is None:
        raise ValueError(f"{whole.name}: its true pose is not known")
    return cut(whole, Around(truth, config.margin[1] + 4 * config.shift))


def cut(whole: Complex, pocket: Pocket) -> Complex:
    """The complex with the residues of a pocket only. Raises RequestError where there are none."""
    protein = whole.receptor.protein.crop(pocket)
    kept = np.isin(whole.receptor.protein.origin, protein.origin)
    chosen = _cut(whole, kept, np.zeros((protein.n_atoms, 3)))
    return replace(chosen, receptor=replace(chosen.receptor, protein=protein))


def _cut(whole: Complex, kept: Bool[np.ndarray, " n"], noise: Float64[np.ndarray, "a 3"]) -> Complex:
    """The complex with the residues ``kept`` only, around their own centre, and every atom of theirs displaced.

    The C-alphas of the residue graph stay where they are: such noise is nothing to distances between residues.
    """
    old, protein = whole.receptor, whole.receptor.protein.keep(kept)
    atoms, shift = kept[old.protein.residue], old.centre - protein.center
    residues = {name: rows[kept] for name, rows in old.residues.items() if name != "edges"}
    residues["positions"] = residues["positions"] + shift
    residues["edges"] = nearest_edges(protein.ca, RECEPTOR_RADIUS, RECEPTOR_NEIGHBOURS, least=1)
    number = np.cumsum(atoms) - 1
    edges = old.atoms["edges"]
    parts = {
        "features": old.atoms["features"][atoms],
        "positions": old.atoms["positions"][atoms] + shift + noise,
        "edges": number[edges[:, atoms[edges].all(axis=0)]],
        "residue": protein.residue,
    }
    ligand = ligand_arrays(whole.graph, shift)
    graph = complex_graph(ligand=ligand, receptor=residues, atoms=parts)
    return replace(whole, receptor=Receptor(protein, old.whole, protein.center, residues, parts), graph=graph)
