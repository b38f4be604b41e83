"""One complex as a torch-geometric graph, and the flat view of B samples that the networks read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch_geometric.data import Batch, HeteroData

BOND = ("ligand", "bond", "ligand")
TORSION = ("ligand", "torsion", "ligand")
NEAR = ("receptor", "near", "receptor")
ATOM_NEAR = ("atom", "near", "atom")
ATOM_IN = ("atom", "in", "receptor")
BONDED = 1.9  # Angstrom: protein atoms nearer than that are bonded


def complex_graph(
    *,
    ligand: Mapping[str, np.ndarray],
    receptor: Mapping[str, np.ndarray],
    atoms: Mapping[str, np.ndarray] | None = None,
) -> HeteroData:
    """Graph of one complex. Positions in Angstrom, all in one frame.

    ligand: ``features`` [n, 16], ``positions`` [n, 3] (a conformer), ``bonds`` [2, 2E], ``kinds`` [2E] (0..3),
    ``torsions`` [R, 2] (u, v; v moves), ``parent`` [R], ``group`` [n] (see ``torsion.nesting``), and where the true
    pose is known ``crystal`` [n, 3] and ``matched`` [n, 3] (the conformer laid on it);
    receptor: ``types`` [N], ``positions`` [N, 3] (C-alpha), ``edges`` [2, E] and optionally ``language`` [N, L];
    atoms (for the all-atom confidence model): ``features`` [A, 4], ``positions`` [A, 3], ``edges`` [2, E], ``residue``
    [A]. Row 0 of edges receives from row 1.
    """
    data = HeteroData()
    data["ligand"].x = torch.as_tensor(ligand["features"])
    data["ligand"].pos = torch.as_tensor(ligand["positions"], dtype=torch.float32)
    for name in ("crystal", "matched"):
        if name in ligand:
            data["ligand"][name] = torch.as_tensor(ligand[name], dtype=torch.float32)
    data["ligand"].group = torch.as_tensor(ligand["group"])
    data[BOND].edge_index, data[BOND].kind = torch.as_tensor(ligand["bonds"]), torch.as_tensor(ligand["kinds"])
    data[TORSION].edge_index = torch.as_tensor(ligand["torsions"]).T.contiguous()
    data[TORSION].parent = torch.as_tensor(ligand["parent"])
    data["receptor"].x = torch.as_tensor(receptor["types"])[:, None]
    data["receptor"].pos = torch.as_tensor(receptor["positions"], dtype=torch.float32)
    data[NEAR].edge_index = torch.as_tensor(receptor["edges"])
    if "language" in receptor:
        data["receptor"].language = torch.as_tensor(receptor["language"])
    if atoms is not None:
        data["atom"].x = torch.as_tensor(atoms["features"])
        data["atom"].pos = torch.as_tensor(atoms["positions"], dtype=torch.float32)
        data[ATOM_NEAR].edge_index = torch.as_tensor(atoms["edges"])
        residue = torch.as_tensor(atoms["residue"])
        data[ATOM_IN].edge_index = torch.stack([torch.arange(len(residue)), residue])
    return data


def ligand_arrays(graph: HeteroData, shift: np.ndarray) -> dict[str, np.ndarray]:
    """The ligand of a graph as ``complex_graph`` takes it, its positions moved by ``shift`` [3] Angstrom."""
    ligand = graph["ligand"]
    moved = {"positions": ligand.pos} | {name: ligand[name] for name in ("crystal", "matched") if name in ligand}
    return {
        "features": ligand.x.numpy(), "group": ligand.group.numpy(),
        "bonds": graph[BOND].edge_index.numpy(), "kinds": graph[BOND].kind.numpy(),
        "torsions": graph[TORSION].edge_index.T.numpy(), "parent": graph[TORSION].parent.numpy(),
        **{name: place.numpy() + shift for name, place in moved.items()},
    }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Structure:
    """What the networks read of B complexes, concatenated; node numbers count through the whole batch.

    atoms: [n, 16] ligand features; atom_sample: [n] which complex; bonds: [2, E] with kinds [E]; torsions: [2, R];
    torsion_sample: [R]; residues: [N, 1] types; residue_sample: [N]; ca: [N, 3]; near: [2, E]; language: [N, L];
    protein_*: of the all-atom model, None where the graph has no protein atoms.
    """

    size: int
    atoms: Int[Tensor, "n f"]
    atom_sample: Int[Tensor, " n"]
    bonds: Int[Tensor, "2 e"]
    kinds: Int[Tensor, " e"]
    torsions: Int[Tensor, "2 r"]
    torsion_sample: Int[Tensor, " r"]
    residues: Int[Tensor, "m 1"]
    residue_sample: Int[Tensor, " m"]
    ca: Float[Tensor, "m 3"]
    near: Int[Tensor, "2 g"]
    language: Float[Tensor, "m l"] | None
    protein_atoms: Int[Tensor, "a 4"] | None
    protein_positions: Float[Tensor, "a 3"] | None
    protein_sample: Int[Tensor, " a"] | None
    protein_near: Int[Tensor, "2 h"] | None
    protein_residue: Int[Tensor, " a"] | None

    @staticmethod
    def of(graphs: Sequence[HeteroData]) -> "Structure":
        """Concatenate complexes (by torch-geometric's ``Batch``)."""
        batch = Batch.from_data_list(list(graphs))
        ligand, receptor = batch["ligand"], batch["receptor"]
        torsions = batch[TORSION].edge_index
        full = "atom" in batch.node_types
        return Structure(
            size=len(graphs),
            atoms=ligand.x,
            atom_sample=ligand.batch,
            bonds=batch[BOND].edge_index,
            kinds=batch[BOND].kind,
            torsions=torsions,
            torsion_sample=ligand.batch[torsions[1]],
            residues=receptor.x,
            residue_sample=receptor.batch,
            ca=receptor.pos,
            near=batch[NEAR].edge_index,
            language=receptor.language if "language" in receptor else None,
            protein_atoms=batch["atom"].x if full else None,
            protein_positions=batch["atom"].pos if full else None,
            protein_sample=batch["atom"].batch if full else None,
            protein_near=batch[ATOM_NEAR].edge_index if full else None,
            protein_residue=batch[ATOM_IN].edge_index[1] if full else None,
        )

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Structure":
        """On a device; floating-point tensors in ``dtype``."""

        def move(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return value.to(device, dtype) if value.is_floating_point() else value.to(device)

        return Structure(**{f.name: move(getattr(self, f.name)) for f in fields(self)})

    @cached_property
    def atom_counts(self) -> Int[Tensor, " b"]:
        return torch.bincount(self.atom_sample, minlength=self.size)

    @cached_property
    def residue_counts(self) -> Int[Tensor, " b"]:
        return torch.bincount(self.residue_sample, minlength=self.size)

    @cached_property
    def atom_slot(self) -> Int[Tensor, " n"]:
        """Number of every ligand atom within its complex."""
        return _within(self.atom_sample, self.atom_counts)

    @cached_property
    def residue_slot(self) -> Int[Tensor, " m"]:
        """Number of every residue within its complex."""
        return _within(self.residue_sample, self.residue_counts)

    @cached_property
    def protein_slot(self) -> tuple[Int[Tensor, " a"], Int[Tensor, " a"]]:
        """Complex of every protein atom and its number within it. Raises ValueError where the graphs have none."""
        if self.protein_sample is None:
            raise ValueError("this network reads the protein's atoms, and these graphs were built without them")
        counts = torch.bincount(self.protein_sample, minlength=self.size)
        return self.protein_sample, _within(self.protein_sample, counts)

    @cached_property
    def protein_bonded(self) -> Bool[Tensor, " h"]:
        """Which of ``protein_near`` are bonds. Raises ValueError where the graphs have no protein atoms."""
        if self.protein_positions is None or self.protein_near is None:
            raise ValueError("this network reads the protein's atoms, and these graphs were built without them")
        i, j = self.protein_near
        return (self.protein_positions[i] - self.protein_positions[j]).square().sum(1) < BONDED**2

    @cached_property
    def pointer_slot(self) -> tuple[Int[Tensor, " n"], Int[Tensor, " m"]]:
        """Category number of every atom and every residue as a node-pointer latent: ligand atoms first."""
        return self.atom_slot, self.residue_slot + self.atom_counts[self.residue_sample]

    @cached_property
    def pointer_mask(self) -> Bool[Tensor, "b k"]:
        """Which categories each complex has."""
        counts = self.atom_counts + self.residue_counts
        return torch.arange(int(counts.max()), device=counts.device) < counts[:, None]

    @cached_property
    def torsion_slot(self) -> Int[Tensor, " r"]:
        """Number of every torsion within its complex."""
        return _within(self.torsion_sample, torch.bincount(self.torsion_sample, minlength=self.size))


def _within(sample: Tensor, counts: Tensor) -> Tensor:
    """Running number within each sample, for sorted sample numbers."""
    starts = counts.cumsum(0) - counts
    return torch.arange(len(sample), device=sample.device) - starts[sample]
