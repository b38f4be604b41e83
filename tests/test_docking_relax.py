"""Vina's field and poses relaxed in it: derivatives, what stays as it was, symmetries, failures."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from rdkit import Chem
from torch import Tensor

from core.geometry.rigid import rotation_matrix
from core.pipeline import Pipeline, Request
from domains.docking.batch import DockingBatch
from domains.docking.chemistry.ligand import ligand_from_mol
from domains.docking.chemistry.pocket import Around
from domains.docking.complex import Complex, Receptor, make_complex
from domains.docking.crops import cut
from domains.docking.empirical.field import BONDS_APART, Field, distant_pairs, internal_energies
from domains.docking.empirical.relax import Motion, relaxed
from domains.docking.empirical.terms import WEIGHTS, Pairs, empirical_terms, pair_energies
from domains.docking.graph import Structure
from domains.docking.pose import Pose, pose_of
from domains.docking.shipped import shipped
from tests.docking_support import crystal


def known() -> Complex:
    """6W70, what lies within 10 A of its ligand."""
    ligand, protein = crystal()
    assert ligand.coordinates is not None
    return cut(make_complex("6w70", Receptor.of(protein), ligand, with_pose=True), Around(ligand.coordinates, 10.0))


def structure(each: Complex, copies: int) -> Structure:
    return Structure.of([each.graph] * copies).to("cpu", torch.float64)


def displaced(each: Complex, copies: int, seed: int = 0) -> Pose:
    """Copies of the true pose, each moved, turned and bent a little at random."""
    truth = Pose.concatenate([pose_of(each.graph, each.graph["ligand"].matched)] * copies).to("cpu", torch.float64)
    random = torch.Generator().manual_seed(seed)
    width = 6 + truth.torsions.mask.shape[1]
    return truth.moved_to(
        Motion(truth).move(truth.positions, 0.4 * torch.randn(copies, width, generator=random).double())
    )


def small(smiles: str) -> Complex:
    """A little ligand of one conformer, in the frame of the pocket of 6W70."""
    ligand = ligand_from_mol(Chem.MolFromSmiles(smiles), smiles)
    return make_complex(smiles, known().receptor, ligand)


def energies(s: Structure, pose: Pose) -> Tensor:
    return Field(s, pose.flat)(pose.flat)[0]


def test_slopes_of_pairs_are_the_derivatives_of_their_energies() -> None:
    gap = torch.linspace(-2, 7, 400, dtype=torch.float64, requires_grad=True)
    for flags in ((True, True), (True, False), (False, True), (False, False)):
        oily, bond = (torch.full((400,), flag) for flag in flags)
        energy, slope = pair_energies(gap, Pairs(torch.zeros(400), oily, bond))
        (expected,) = torch.autograd.grad(energy.sum(), gap)
        torch.testing.assert_close(slope, expected)


def test_the_field_is_the_weighted_terms_and_the_energy_within_the_ligand() -> None:
    each = known()
    s, pose = structure(each, 2), displaced(each, 2)
    terms = empirical_terms(s, pose.flat)
    outer = (terms @ terms.new_tensor(WEIGHTS)).reshape(2, -1).sum(1)
    energy, gradient = Field(s, pose.flat)(pose.flat)
    torch.testing.assert_close(energy, outer + internal_energies(s, pose.flat), rtol=1e-6, atol=1e-6)
    step = 1e-6 * torch.randn(gradient.shape, generator=torch.Generator().manual_seed(1)).double()
    field = Field(s, pose.flat)
    change = field(pose.flat + step)[0].sum() - field(pose.flat - step)[0].sum()
    torch.testing.assert_close(change, 2 * (gradient * step).sum(), rtol=1e-3, atol=0)


def test_pairs_within_a_ligand_are_those_four_bonds_apart() -> None:
    each = known()
    first, second = distant_pairs(structure(each, 2))
    bonds = Chem.GetDistanceMatrix(each.ligand.mol)
    i, j = np.triu(bonds >= BONDS_APART).nonzero()
    n = each.ligand.n_atoms
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == {
        (shift + a, shift + b) for shift in (0, n) for a, b in zip(i.tolist(), j.tolist(), strict=True)
    }


def test_slopes_of_motions_are_the_derivatives_of_the_energy() -> None:
    each = known()
    s, pose = structure(each, 1), displaced(each, 1)
    motion, field = Motion(pose), Field(s, pose.flat)
    _, gradient = field(pose.flat)
    slope = motion.slope(pose.positions, gradient[None])[0]
    for place in range(len(slope)):
        step = torch.zeros(1, len(slope), dtype=torch.float64)
        step[0, place] = 1e-6
        ends = [field(motion.move(pose.positions, sign * step)[0])[0].sum() for sign in (1, -1)]
        assert float(ends[0] - ends[1]) / 2e-6 == pytest.approx(float(slope[place]), rel=1e-3, abs=1e-4)


def test_displaced_crystal_poses_come_back_and_no_energy_rises() -> None:
    each = known()
    s, start = structure(each, 8), displaced(each, 8)
    truth = each.graph["ligand"].crystal.double()
    end = relaxed(s, start, 60)
    before, after = ((p.positions - truth).square().sum(-1).mean(1).sqrt() for p in (start, end))
    assert (energies(s, end) <= energies(s, start) + 1e-9).all()
    assert float(energies(s, end).mean()) < float(energies(s, start).mean()) - 3
    assert float(after.median()) < float(before.median())
    assert float(after.min()) < 1.0


def test_bond_lengths_and_angles_stay() -> None:
    each = known()
    start = displaced(each, 4)
    end = relaxed(structure(each, 4), start, 20)
    assert float((end.positions - start.positions).abs().max()) > 0.3
    near = torch.from_numpy(Chem.GetDistanceMatrix(each.ligand.mol) <= 2)
    lengths = [(p.positions[:, :, None] - p.positions[:, None]).norm(dim=-1)[:, near] for p in (end, start)]
    torch.testing.assert_close(*lengths)


def test_relaxing_turns_with_the_complex() -> None:
    each = known()
    s, start = structure(each, 2), displaced(each, 2)
    turn = rotation_matrix(torch.tensor([0.3, -1.2, 0.7], dtype=torch.float64))
    assert s.protein_positions is not None
    moved = replace(s, protein_positions=s.protein_positions @ turn.T, ca=s.ca @ turn.T)
    direct = relaxed(s, start, 5).positions @ turn.T
    turned = relaxed(moved, start.moved_to(start.positions @ turn.T), 5).positions
    torch.testing.assert_close(turned, direct, rtol=0, atol=1e-5)


def test_every_pose_is_relaxed_by_itself_and_one_that_is_not_finite_stays() -> None:
    each = known()
    start = displaced(each, 4)
    broken = start.positions.clone()
    broken[2] = math.nan
    end = relaxed(structure(each, 4), start.moved_to(broken), 20)
    assert end.positions[2].isnan().all()
    alone = relaxed(structure(each, 1), start.select(slice(1, 2)), 20)
    torch.testing.assert_close(alone.positions[0], end.positions[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("smiles", ["c1ccccc1", "O", "CCO"])
def test_ligands_that_cannot_bend(smiles: str) -> None:
    each = small(smiles)
    s, start = structure(each, 1), pose_of(each.graph).to("cpu", torch.float64)
    place = known().graph["ligand"].crystal.double().mean(0)
    start = start.moved_to(start.positions - start.centroid()[:, None] + place)
    end = relaxed(s, start, 20)
    assert end.positions.isfinite().all()
    assert float(energies(s, end)) < float(energies(s, start))


def test_a_ligand_far_from_the_protein_stays() -> None:
    each = known()
    start = displaced(each, 1)
    far = start.moved_to(start.positions + 500.0)
    inner = internal_energies(structure(each, 1), far.flat)
    end = relaxed(structure(each, 1), far, 10)
    assert float(internal_energies(structure(each, 1), end.flat)) <= float(inner)
    torch.testing.assert_close(end.centroid(), far.centroid(), rtol=0, atol=1.0)


def test_graphs_without_protein_atoms_are_refused() -> None:
    each = known()
    s = replace(structure(each, 1), protein_atoms=None, protein_positions=None, protein_sample=None, protein_near=None)
    with pytest.raises(ValueError, match="without"):
        relaxed(s, displaced(each, 1), 1)


def test_a_model_relaxes_what_it_samples() -> None:
    each = known()
    batch = DockingBatch(torch.arange(2), (each,), (0, 0))
    states = {}
    for setting in ("null", "{steps: 15}"):
        pipeline = Pipeline.from_pretrained(shipped(), "cpu", [f"model.relax={setting}"])
        request = Request(seed=0, steps=2)
        states[setting], _ = pipeline.solve(batch, pipeline.latents_for(request, batch), request)
    expected = relaxed(structure(each, 2), states["null"], 15)
    torch.testing.assert_close(states["{steps: 15}"].positions, expected.positions)
    assert not torch.allclose(expected.positions, states["null"].positions)
