"""AutoDock Vina's empirical terms between atoms (Trott & Olson 2010, https://doi.org/10.1002/jcc.21334).

With d the distance of two heavy atoms less their radii, in Angstrom: two attractive Gaussians, exp(-(d / 0.5)^2) and
exp(-((d - 3) / 2)^2); repulsion, d^2 below 0; hydrophobic contact, 1 below 0.5 and falling to 0 at 1.5, of two
hydrophobic atoms; hydrogen bond, 1 below -0.7 and falling to 0 at 0, of a donor and an acceptor. Vina's own typing sees
polar hydrogens; here donors and acceptors follow from the heavy atoms, so sums differ from Vina's by a little.
"""

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from domains.docking.chemistry.features import ATOM_NAMES, HYBRIDIZATIONS, PROTEIN_ATOM_FEATURE_SIZES, RESIDUES
from domains.docking.graph import Structure
from domains.docking.networks.nearest import Nearest, nearest

TERMS = 5
WEIGHTS = (-0.035579, -0.005156, 0.840245, -0.035069, -0.587439)  # kcal/mol, in the order of the terms
RADII = {6: 1.9, 7: 1.8, 8: 1.7, 9: 1.5, 15: 2.1, 16: 2.0, 17: 1.8, 35: 2.0, 53: 2.2}
OTHER_RADIUS = 1.9
HALOGENS = (9, 17, 35, 53)
REACH = 8.0  # Angstrom
NEIGHBOURS = 192  # more heavy atoms do not fit into that sphere

DONORS = {"N", "ND1", "ND2", "NE", "NE1", "NE2", "NH1", "NH2", "NZ", "OG", "OG1", "OH"}
ACCEPTORS = {"O", "OXT", "OD1", "OD2", "OE1", "OE2", "OG", "OG1", "OH"}
IMIDAZOLE = {"ND1", "NE2"}  # either nitrogen of histidine may hold the hydrogen


@dataclass(frozen=True)
class Kinds:
    """What the terms ask of atoms: radius [n] in Angstrom, and three flags [n]."""

    radius: Float[Tensor, " n"]
    hydrophobic: Bool[Tensor, " n"]
    donor: Bool[Tensor, " n"]
    acceptor: Bool[Tensor, " n"]


@dataclass(frozen=True)
class Pairs:
    """What the terms ask of pairs of atoms: the sum of radii in Angstrom, and whether they are both hydrophobic or may
    share a hydrogen. Fields have the shape of the pairs."""

    radius: Tensor
    hydrophobic: Tensor
    bond: Tensor

    @staticmethod
    def of(first: Kinds, second: Kinds, index: tuple[Tensor, Tensor]) -> "Pairs":
        """index: numbers of the atoms on either side, of shapes that broadcast to that of the pairs."""
        i, j = index
        return Pairs(
            first.radius[i] + second.radius[j],
            first.hydrophobic[i] & second.hydrophobic[j],
            (first.donor[i] & second.acceptor[j]) | (first.acceptor[i] & second.donor[j]),
        )


def pair_terms(gap: Tensor, pairs: Pairs) -> tuple[Tensor, ...]:
    """The five terms of pairs whose distance less their radii is ``gap``, Angstrom."""
    return (
        (-((gap / 0.5) ** 2)).exp(),
        (-(((gap - 3) / 2) ** 2)).exp(),
        gap.clamp_max(0) ** 2,
        (1.5 - gap).clamp(0, 1) * pairs.hydrophobic,
        (-gap / 0.7).clamp(0, 1) * pairs.bond,
    )


def pair_energies(gap: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """The weighted sum of the five terms, kcal/mol, and its derivative by the gap, kcal/mol/A."""
    near, far, overlap, oily, bond = pair_terms(gap, pairs)
    first, second, third, fourth, fifth = WEIGHTS
    energy = first * near + second * far + third * overlap + fourth * oily + fifth * bond
    slope = (
        first * near * (-8 * gap)
        + second * far * ((3 - gap) / 2)
        + third * 2 * gap.clamp_max(0)
        - fourth * ((gap > 0.5) & (gap < 1.5) & pairs.hydrophobic)
        - fifth / 0.7 * ((gap > -0.7) & (gap < 0) & pairs.bond)
    )
    return energy, slope


def empirical_terms(complexes: Structure, positions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 5"]:
    """The five terms of every ligand atom, summed over the protein atoms within 8 A.

    Raises ValueError where the graphs have no protein atoms.
    """
    near, pairs = near_pairs(complexes, ligand_kinds(complexes), protein_kinds(complexes), positions, REACH)
    terms = torch.stack(pair_terms(near.distance - pairs.radius, pairs), dim=2)
    return (terms * near.real[..., None]).sum(1)


def near_pairs(
    complexes: Structure, mine: Kinds, theirs: Kinds, positions: Float[Tensor, "n 3"], radius: float
) -> tuple[Nearest, Pairs]:
    """The protein atoms within ``radius`` Angstrom of every ligand atom, and what the terms ask of these pairs [n, K].

    Raises ValueError where the graphs have no protein atoms.
    """
    slot, places = complexes.protein_slot, complexes.protein_positions
    assert places is not None
    ligand = (complexes.atom_sample, complexes.atom_slot)
    near = nearest(positions, ligand, places, slot, complexes.size, NEIGHBOURS, radius)
    rows = torch.arange(len(positions), device=positions.device)[:, None]
    return near, Pairs.of(mine, theirs, (rows, near.index))


def ligand_kinds(complexes: Structure) -> Kinds:
    """Of the ligands' atoms. A carbon is hydrophobic where all its neighbours are carbons; nitrogen without hydrogens
    accepts where it has a free pair: two neighbours at most, or three around an uncharged sp3 nitrogen."""
    x, (i, j) = complexes.atoms, complexes.bonds
    number, degree, charge, hydrogens = x[:, 0] + 1, x[:, 2], x[:, 3] - 5, x[:, 5]
    pyramid = (x[:, 7] == HYBRIDIZATIONS.index("SP3")) & (charge == 0)
    nitrogen, oxygen = number == 7, number == 8
    lone = nitrogen & (hydrogens == 0) & ((degree <= 2) | pyramid)
    return _kinds(number, i, j, (nitrogen | oxygen) & (hydrogens > 0), oxygen | lone)


def protein_kinds(complexes: Structure) -> Kinds:
    """Of the proteins' atoms, by residue and atom name. Raises ValueError where the graphs have none."""
    bonded, x, near = complexes.protein_bonded, complexes.protein_atoms, complexes.protein_near
    assert x is not None
    assert near is not None
    i, j = near[:, bonded]
    donor, acceptor = (table.to(x.device)[x[:, 0], x[:, 3]] for table in _names())
    return _kinds(x[:, 1] + 1, i, j, donor, acceptor)


def _kinds(number: Tensor, i: Tensor, j: Tensor, donor: Tensor, acceptor: Tensor) -> Kinds:
    """number: [n] atomic numbers; i, j: [e] ends of directed bonds."""
    hetero = torch.zeros(len(number), device=number.device).index_add_(0, j, (number[i] != 6).float()) > 0
    halogen = torch.isin(number, torch.tensor(HALOGENS, device=number.device))
    radii = torch.full((128,), OTHER_RADIUS, device=number.device)
    for element, radius in RADII.items():
        radii[element] = radius
    return Kinds(radii[number], ((number == 6) & ~hetero) | halogen, donor, acceptor)


@cache
def _names() -> tuple[Tensor, Tensor]:
    """[residues, atom names] who gives a hydrogen, and who takes one."""
    donor, acceptor = (
        torch.zeros(PROTEIN_ATOM_FEATURE_SIZES[0], PROTEIN_ATOM_FEATURE_SIZES[3], dtype=torch.bool) for _ in range(2)
    )
    for column, name in enumerate(ATOM_NAMES):
        donor[:, column], acceptor[:, column] = name in DONORS, name in ACCEPTORS
    donor[RESIDUES.index("PRO"), ATOM_NAMES.index("N")] = False
    for residue in ("HIS", "HID", "HIE", "HIP"):
        for name in IMIDAZOLE:
            acceptor[RESIDUES.index(residue), ATOM_NAMES.index(name)] = True
    return donor, acceptor
