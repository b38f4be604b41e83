"""Vina's empirical terms as features: closed forms, Vina itself, and the ranker that hears them."""

import platform
import sys

import numpy as np
import pytest
import torch
from rdkit import Chem

from domains.docking.chemistry.ligand import ligand_from_mol
from domains.docking.complex import Complex, Receptor, make_complex
from domains.docking.dock.rescore import rescore
from domains.docking.empirical.terms import WEIGHTS, empirical_terms, ligand_kinds, protein_kinds
from domains.docking.graph import Structure
from domains.docking.networks.backbone import BackboneOptions
from domains.docking.networks.ranker import PoseRanker
from tests.docking_support import crystal

STEP = np.array([0.6, 0.0, 0.8])


def known() -> Complex:
    ligand, protein = crystal()
    return make_complex("6w70", Receptor.of(protein), ligand, with_pose=True)


def displaced(each: Complex, steps: tuple[float, ...]) -> np.ndarray:
    """[P, n, 3] the true pose, moved as a whole, in the frame of the file."""
    assert each.ligand.coordinates is not None
    return np.stack([each.ligand.coordinates + step * STEP for step in steps])


def structure(each: Complex, copies: int = 1) -> Structure:
    return Structure.of([each.graph] * copies).to("cpu", torch.float64)


def local(each: Complex, poses: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(poses - each.receptor.centre).reshape(-1, 3)


def test_terms_are_the_closed_forms_summed_over_all_pairs() -> None:
    each = known()
    s, x = structure(each), local(each, displaced(each, (0.0,)))
    mine, theirs = ligand_kinds(s), protein_kinds(s)
    assert s.protein_positions is not None
    distance = torch.cdist(x, s.protein_positions)
    d = distance - mine.radius[:, None] - theirs.radius
    oily = mine.hydrophobic[:, None] & theirs.hydrophobic
    bond = (mine.donor[:, None] & theirs.acceptor) | (mine.acceptor[:, None] & theirs.donor)
    expected = [
        torch.exp(-4 * d**2),
        torch.exp(-((d - 3) ** 2) / 4),
        torch.where(d < 0, d**2, 0),
        torch.where(d <= 0.5, 1.0, torch.where(d < 1.5, 1.5 - d, 0.0)) * oily,
        torch.where(d <= -0.7, 1.0, torch.where(d < 0, d / -0.7, 0.0)) * bond,
    ]
    sums = torch.stack([(term * (distance <= 8)).sum(1) for term in expected], dim=1)
    torch.testing.assert_close(empirical_terms(s, x), sums, rtol=1e-4, atol=1e-5)
    assert (sums.sum(0) > 0).all()


def test_kinds_of_ligand_atoms() -> None:
    ligand = ligand_from_mol(Chem.MolFromSmiles("CCN(C)CC(=O)Nc1ccc(Cl)nc1O"), "drug")
    each = make_complex("drug", Receptor.of(crystal()[1]), ligand)
    kinds, mol = ligand_kinds(structure(each)), each.ligand.mol
    names = {"oily": kinds.hydrophobic, "donor": kinds.donor, "acceptor": kinds.acceptor}
    found = {name: [mol.GetAtomWithIdx(i).GetSymbol() for i in flag.nonzero()[:, 0].tolist()] for name, flag in
             names.items()}  # fmt: skip
    # Carbons with none but carbon neighbours, and chlorine; amide NH and OH; tertiary amine, C=O, pyridine N, OH.
    assert sorted(found["oily"]) == sorted(["C", "C", "C", "Cl"])
    assert sorted(found["donor"]) == ["N", "O"]
    assert sorted(found["acceptor"]) == ["N", "N", "O", "O"]


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="Vina has wheels for Linux on x86-64"
)
def test_the_weighted_sum_is_proportional_to_vinas_own_score() -> None:
    each, steps = known(), (0.0, 0.5, 1.0, 1.5)
    poses = displaced(each, steps)
    terms = empirical_terms(structure(each, len(steps)), local(each, poses))
    ours = (terms @ terms.new_tensor(WEIGHTS)).reshape(len(steps), -1).sum(1).numpy()
    theirs = rescore("vina", each.ligand.mol, poses, each.receptor.whole)["vina"]
    # Vina divides by 1 + 0.0585 times its count of rotors, the same for every pose.
    factors = ours / theirs
    assert 1.0 <= factors[0] <= 2.0
    np.testing.assert_allclose(factors, factors[0], rtol=0.05)


def test_a_ranker_with_the_terms_has_gradients_and_is_invariant() -> None:
    each = known()
    options = BackboneOptions(
        network="vector", layers=1, scalars=8, vectors=4, distance_dim=8, ligand_radius=6.0, residue_radius=10.0,
        cross_cutoff=10.0, atom_radius=5.0, sigma_dim=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = PoseRanker(options, outputs=2, empirical=True).double()
    x = local(each, displaced(each, (0.0, 2.0))).requires_grad_()
    logits = model(structure(each, 2), x)
    assert logits.shape == (2, 2)
    (slope,) = torch.autograd.grad(logits[:, 0].sum(), x)
    assert slope.isfinite().all()
    assert float(slope.abs().max()) > 0
    assert not torch.allclose(logits[0], logits[1])


def test_proteins_without_carbon_neighbours_only_are_not_hydrophobic() -> None:
    s = structure(known())
    kinds = protein_kinds(s)
    assert s.protein_atoms is not None
    carbon = s.protein_atoms[:, 1] == 5
    assert not (kinds.hydrophobic & ~carbon).any()
    backbone = torch.isin(s.protein_atoms[:, 3], torch.tensor([0, 1]))  # C and CA are bonded to N
    assert not kinds.hydrophobic[backbone].any()
    assert 0.2 < float(kinds.hydrophobic.double().mean()) < 0.5
