"""What the docking tests share: golden references and the complex they were made from, small complexes of our own."""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from domains.docking.chemistry.ligand import Ligand, read_ligand
from domains.docking.chemistry.protein import Protein, read_protein
from domains.docking.chemistry.rotatable import rotatable_bonds
from domains.docking.complex import Complex, Receptor
from domains.docking.graph import complex_graph
from domains.docking.torsion import nesting
from tests.support import ROOT, SHARED_DATA

DATA = ROOT / "tests" / "data" / "docking"
GOLDEN = SHARED_DATA / "golden" / "docking"
NO_GOLDEN = f"no golden references in {GOLDEN}"


@cache
def golden(name: str) -> dict[str, Any]:
    """One file of the golden references: a dict of tensors, never to be changed."""
    loaded: dict[str, Any] = torch.load(GOLDEN / f"{name}.pt", weights_only=True)
    return loaded


def golden_graph(positions: str = "lig_pos_matched") -> HeteroData:
    """Complex 6W70 as the authors' code prepared it."""
    g = golden("graph_6w70")
    index = g["lig_bond_index"].numpy()
    bonds, moves = rotatable_bonds(len(g["lig_x"]), index)
    parent, group = nesting(moves)
    ligand = {
        "features": g["lig_x"].numpy(), "positions": g[positions].numpy(), "bonds": index,
        "kinds": g["lig_bond_attr"].argmax(1).numpy(), "torsions": bonds, "parent": parent, "group": group,
    }  # fmt: skip
    receptor = {
        "types": g["rec_x"][:, 0].long().numpy(), "positions": g["rec_pos"].numpy(),
        "edges": g["rec_edge_index"].numpy(), "language": g["rec_x"][:, 1:].numpy(),
    }  # fmt: skip
    atoms = {
        "features": g["atom_x"].numpy(), "positions": g["atom_pos"].numpy(), "edges": g["atom_edge_index"].numpy(),
        "residue": g["atom_rec_edge_index"][1].numpy(),
    }  # fmt: skip
    return complex_graph(ligand=ligand, receptor=receptor, atoms=atoms)


@cache
def crystal() -> tuple[Ligand, Protein]:
    """6W70 as crystallised."""
    return read_ligand(DATA / "6w70_ligand.sdf"), read_protein(DATA / "6w70_protein.pdb.gz")


def places(ligand: Ligand) -> np.ndarray:
    """The true pose."""
    assert ligand.coordinates is not None
    return ligand.coordinates


@cache
def golden_complex() -> Complex:
    """6W70 read from files of our own, with the authors' graph."""
    receptor = Receptor.of(read_protein(DATA / "6w70_protein.pdb.gz"))
    return Complex("6w70", receptor, read_ligand(DATA / "6w70_ligand.sdf", raw_chirality=True), golden_graph())


class GoldenScale:
    """Noise levels and score norms as the golden references were made with: the authors' tables, their indices."""

    def sigmas(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        levels = ((0.1, 19.0), (0.03, 1.55), (0.03, 3.14))
        tr, rot, tor = (low ** (1 - t) * high**t for low, high in levels)
        return tr, rot, tor

    def score_norms(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tr, rot, tor = self.sigmas(t)
        tables = golden("score_norm_tables")
        rows = _rows(rot, 0.01, 2.0, 1000)
        columns = _rows(tor / np.pi, 3e-3, 2.0, 5000)
        return 1 / tr, tables["so3_exp_score_norms"][rows], tables["torus_score_norm"][columns].sqrt()


def _rows(value: Tensor, low: float, high: float, count: int) -> Tensor:
    place = (value.double() / low).log() / np.log(high / low) * count
    return place.round().clamp(0, count).long()
