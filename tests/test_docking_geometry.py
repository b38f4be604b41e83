"""Turning torsions, noise on poses, and samplers on R3 x SO(3) x T^k."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from rdkit import Chem
from scipy.integrate import solve_ivp
from scipy.spatial.transform import Rotation
from torch import Tensor

from core.geometry import torus
from core.geometry.rigid import random_rotation, rotation_vector, superpose
from core.geometry.so3 import IGSO3
from core.guidance import ScoreField
from core.rng import SampleStreams
from core.samplers import Euler, EulerMaruyama, Heun, OneStep, make_sampler
from core.types import Batch
from domains.docking.chemistry.features import bond_graph
from domains.docking.chemistry.rotatable import rotatable_bonds
from domains.docking.geometry import DockingGeometry
from domains.docking.noise import FIELDS, LOSS_WEIGHTS, DockingNoise, TabledNoise, authors_noise
from domains.docking.pose import Pose
from domains.docking.temperatures import PUBLISHED
from domains.docking.torsion import Torsions, nesting, turn
from tests.docking_support import GOLDEN, NO_GOLDEN, GoldenScale, golden, golden_graph
from tests.support import streams

MOLECULES = (
    "CC(C)Cc1ccc(cc1)C(C)C(=O)OCCN(CC)CC",  # nested branches
    "CCCCCCCCCCCCCCCCCCCC",  # one long chain
    "c1ccccc1",  # nothing turns
    "CC",  # two atoms
    "[Na+]",
)
needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason=NO_GOLDEN)


def random_pose(smiles: str, seed: int = 0) -> tuple[Pose, np.ndarray]:
    """A molecule with atoms at random places (torsions do not ask whether they are sensible), and its moving parts."""
    mol = Chem.MolFromSmiles(smiles)
    n = mol.GetNumAtoms()
    bonds, moves = rotatable_bonds(n, bond_graph(mol)[0])
    parent, group = nesting(moves)
    places = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, n, 3))) * 3
    torsions = Torsions(
        torch.from_numpy(bonds)[None], torch.from_numpy(parent)[None], torch.from_numpy(group)[None],
        torch.ones(1, len(bonds), dtype=torch.bool),
    )  # fmt: skip
    return Pose(places, torch.ones(1, n, dtype=torch.bool), torsions), moves


def mixed_batch() -> Pose:
    return Pose.concatenate([random_pose(smiles, i)[0] for i, smiles in enumerate(MOLECULES)])


def one_by_one(places: np.ndarray, bonds: np.ndarray, moves: np.ndarray, angles: np.ndarray, order: Any) -> np.ndarray:
    """Bond after bond, as torsional diffusion does it: about u - v, around v, the part of v."""
    places = places.copy()
    for r in order:
        u, v = bonds[r]
        axis = (places[u] - places[v]) / np.linalg.norm(places[u] - places[v])
        places[moves[r]] = Rotation.from_rotvec(axis * angles[r]).apply(places[moves[r]] - places[v]) + places[v]
    return places


@pytest.mark.parametrize("smiles", MOLECULES[:2])
def test_turning_at_once_is_turning_one_by_one_in_any_order(smiles: str) -> None:
    pose, moves = random_pose(smiles)
    rng = np.random.default_rng(1)
    bonds = pose.torsions.bonds[0].numpy()
    angles = rng.uniform(-math.pi, math.pi, len(bonds))
    turned = turn(pose.positions, pose.torsions, torch.from_numpy(angles)[None])[0].numpy()
    for order in (range(len(bonds)), rng.permutation(len(bonds))):
        np.testing.assert_allclose(
            turned, one_by_one(pose.positions[0].numpy(), bonds, moves, angles, order), atol=1e-9
        )


def test_ligands_turn_in_a_batch_as_they_do_alone() -> None:
    batch = mixed_batch()
    angles = torch.from_numpy(np.random.default_rng(2).normal(size=batch.torsions.mask.shape))
    together = turn(batch.positions, batch.torsions, angles)
    for i, smiles in enumerate(MOLECULES):
        alone, _ = random_pose(smiles, i)
        n, r = alone.positions.shape[1], alone.torsions.mask.shape[1]
        expected = turn(alone.positions, alone.torsions, angles[i : i + 1, :r])
        torch.testing.assert_close(together[i, :n], expected[0], rtol=0, atol=1e-12)


def test_gradients_pass_through_turning() -> None:
    pose, _ = random_pose(MOLECULES[0])
    angles = torch.zeros_like(pose.torsions.mask, dtype=torch.float64).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda a: turn(pose.positions, pose.torsions, a), (angles + 0.3,))


def dihedral(pose: Pose, bond: int, far_u: int, far_v: int) -> float:
    u, v = pose.torsions.bonds[0, bond].tolist()
    a, b, c, d = pose.positions[0, [far_u, u, v, far_v]]
    n1, n2 = torch.linalg.cross(b - a, c - b), torch.linalg.cross(c - b, d - c)
    axis = (c - b) / (c - b).norm()
    return float(torch.atan2((torch.linalg.cross(n1, n2) * axis).sum(), (n1 * n2).sum()))


def test_a_step_moves_centroid_orientation_and_torsions_each_by_its_own_amount() -> None:
    pose, _ = random_pose("CCCCCC")
    geometry = DockingGeometry()
    tor = torch.tensor([[0.3, -0.7, 0.2]], dtype=torch.float64)
    tr, zero = torch.tensor([[1.0, 2.0, 3.0]]).double(), torch.zeros(1, 3).double()
    moved = geometry.retract(pose, {"tr": tr, "rot": zero, "tor": tor})
    torch.testing.assert_close(moved.centroid(), pose.centroid() + tr)
    rotation, _ = superpose(moved.positions, pose.positions + tr[:, None], pose.mask)
    torch.testing.assert_close(rotation[0], torch.eye(3).double(), rtol=0, atol=1e-9)
    for bond, angle in enumerate(tor[0].tolist()):
        u, v = pose.torsions.bonds[0, bond].tolist()
        lower, upper = (u, v) if u < v else (v, u)
        ends = (u - 1, v + 1) if u == lower else (u + 1, v - 1)
        change = dihedral(moved, bond, *ends) - dihedral(pose, bond, *ends)
        # v's part turns right-handedly about u - v, which is against the sense of the dihedral u -> v
        assert math.remainder(change + angle, 2 * math.pi) == pytest.approx(0, abs=1e-9)
        assert upper - lower == 1


def test_bond_lengths_and_bonded_angles_never_change() -> None:
    pose, _ = random_pose(MOLECULES[0])
    geometry = DockingGeometry()
    step = {k: 2 * v for k, v in geometry.draw(pose, streams(1)).items()}
    moved = geometry.retract(pose, step)
    bonds = bond_graph(Chem.MolFromSmiles(MOLECULES[0]))[0].T
    near = [(a, b) for a, b in bonds] + [(a, d) for a, b in bonds for c, d in bonds if b == c and a != d]
    for a, b in near:
        before, after = ((p.positions[0, a] - p.positions[0, b]).norm() for p in (pose, moved))
        assert float(after) == pytest.approx(float(before), abs=1e-9)


def test_no_step_is_no_change() -> None:
    batch = mixed_batch()
    zero = {k: 0 * v for k, v in DockingGeometry().draw(batch, streams(len(MOLECULES))).items()}
    moved = DockingGeometry().retract(batch, zero)
    torch.testing.assert_close(moved.flat, batch.flat, rtol=0, atol=1e-12)


def test_steps_turn_with_the_frame() -> None:
    batch, geometry = mixed_batch(), DockingGeometry()
    frame = random_rotation(torch.tensor([0.3, -1.0, 0.4, 0.9]).double())
    step = geometry.draw(batch, streams(len(MOLECULES)))
    turned = {"tr": step["tr"] @ frame.T, "rot": step["rot"] @ frame.T, "tor": step["tor"]}
    first = geometry.retract(batch.moved_to(batch.positions @ frame.T), turned)
    torch.testing.assert_close(first.flat, geometry.retract(batch, step).flat @ frame.T, rtol=0, atol=1e-10)


def numbers_of(pose: Pose, ids: list[int]) -> list[Any]:
    """Everything random that happens to a batch."""
    geometry, t = DockingGeometry(), torch.full((len(ids),), 0.6, dtype=torch.float64)
    corrupted = geometry.corrupt(pose, t, SampleStreams(3, ids, "a"))
    drawn = geometry.draw(pose, SampleStreams(3, ids, "b"))
    return [corrupted.state.positions, *corrupted.target.values(), *drawn.values()]


def test_noise_of_a_ligand_does_not_depend_on_the_batch() -> None:
    together = numbers_of(mixed_batch(), [10, 11, 12, 13, 14])
    for i, smiles in enumerate(MOLECULES):
        alone = numbers_of(random_pose(smiles, i)[0], [10 + i])
        for both, one in zip(together, alone, strict=True):
            torch.testing.assert_close(both[i, : one.shape[1]], one[0], rtol=0, atol=1e-12)


def test_the_mean_loss_of_a_silent_network_is_one() -> None:
    """Every part's weight is the inverse mean square of its score; a ligand that nothing turns has two parts."""
    pose = Pose.concatenate([random_pose(MOLECULES[0])[0]] * 4000)
    t = torch.linspace(0.05, 1, 4000, dtype=torch.float64)
    corrupted = DockingGeometry().corrupt(pose, t, streams(4000))
    for name, share in zip(FIELDS, LOSS_WEIGHTS, strict=True):
        loss = (corrupted.weight[name] * corrupted.target[name] ** 2).mean()
        # translation: weight sigma^2, so its mean is that of a unit normal; the norms of the others are over the vector
        assert float(loss) == pytest.approx(share / (3 if name == "rot" else 1), rel=0.05), name


def test_padded_torsions_have_neither_target_nor_weight() -> None:
    batch = mixed_batch()
    corrupted = DockingGeometry().corrupt(batch, torch.full((len(MOLECULES),), 0.5), streams(len(MOLECULES)))
    hidden = ~batch.torsions.mask
    assert hidden.any()
    assert not corrupted.target["tor"][hidden].any()
    assert not corrupted.weight["tor"][hidden].any()
    assert (corrupted.weight["tor"][batch.torsions.mask] > 0).all()


def test_levels_are_geometric_and_diffusivity_is_their_rate() -> None:
    t = torch.linspace(0, 1, 5, dtype=torch.float64).requires_grad_(True)
    geometry, pose = DockingGeometry(), Pose.concatenate([random_pose("CCCC")[0]] * 5)
    assert DockingNoise().sigmas(t)[0].detach()[[0, -1]].tolist() == pytest.approx([0.1, 19.0])
    for name, sigma in geometry.sigma(pose, t).items():
        (rate,) = torch.autograd.grad((sigma**2).sum(), t, retain_graph=True)
        torch.testing.assert_close(geometry.diffusivity(pose, t)[name][:, 0], rate)


# ---- samplers on an exact score -------------------------------------------------------------------------------------


def delta_score(clean: Pose, noise: DockingNoise) -> ScoreField:
    """Score of noise around one pose: the kernels' own, read off a noisy pose by its dihedrals and a superposition."""
    zero = torch.zeros_like(clean.torsions.mask, dtype=torch.float64)

    def torsion_angles(pose: Pose) -> Tensor:
        """[B, R] angles by which the bonds of ``clean`` are turned in ``pose``, by Newton steps on the exact map."""
        angles = []
        for b, (u, v) in enumerate(clean.torsions.bonds[0].tolist()):
            part = clean.torsions.group[0] >= 0
            far = next(a for a in range(len(part)) if a not in (u, v) and _moves(clean, b)[a])
            near = next(a for a in range(len(part)) if a not in (u, v) and not _moves(clean, b)[a])
            angles.append([-(_dihedral(p, near, u, v, far) - _dihedral(clean.positions[0], near, u, v, far))
                           for p in pose.positions])  # fmt: skip
        return torus.wrap(torch.tensor(angles, dtype=torch.float64).T.reshape(len(pose.positions), -1)) + zero

    def score(state: Pose, level: Tensor, *_: object) -> Mapping[str, Tensor]:
        tr, rot, tor = noise.sigmas(level.double())
        angles = torsion_angles(state) if zero.shape[1] else zero
        still = Pose.concatenate([clean] * len(level))
        turned = DockingGeometry().retract(
            still, {"tr": 0 * state.centroid(), "rot": 0 * state.centroid(), "tor": angles}
        )
        rotation, _ = superpose(turned.positions, state.positions, state.mask)
        return {
            "tr": -(state.centroid() - still.centroid()) / tr[:, None] ** 2,
            "rot": noise.igso3.score(rotation_vector(rotation), rot),
            "tor": torus.score(angles, tor[:, None]),
        }

    return ScoreField(score, DockingGeometry(noise), Batch(torch.arange(1)))


def _moves(pose: Pose, bond: int) -> list[bool]:
    """Which atoms a bond turns, from the nested groups."""
    parent, inside = pose.torsions.parent[0].tolist(), []
    for innermost in pose.torsions.group[0].tolist():
        around = innermost
        while around not in (-1, bond):
            around = parent[around]
        inside.append(around == bond)
    return inside


def _dihedral(places: Tensor, a: int, b: int, c: int, d: int) -> float:
    x, y, z = places[b] - places[a], places[c] - places[b], places[d] - places[c]
    n1, n2 = torch.linalg.cross(x, y), torch.linalg.cross(y, z)
    return float(torch.atan2((torch.linalg.cross(n1, n2) * y / y.norm()).sum(), (n1 * n2).sum()))


def ode_end(sampler: OneStep, clean: Pose, start: Pose, steps: int, end: float = 0.3) -> Pose:
    field = delta_score(clean, DockingNoise())
    result: Pose = sampler.run(field, start, torch.linspace(1, end, steps + 1, dtype=torch.float64), streams(1))
    return result


@pytest.mark.parametrize("smiles", ["c1ccccc1", "CCCCC"], ids=["rigid", "with torsions"])
def test_heun_is_second_order_and_euler_first_on_the_product_space(smiles: str) -> None:
    clean, _ = random_pose(smiles)
    geometry = DockingGeometry()
    step = {"tr": [[5.0, -3.0, 2.0]], "rot": [[0.9, -0.4, 0.5]], "tor": [[0.8, -0.6][: clean.torsions.mask.shape[1]]]}
    start = geometry.retract(clean, {k: torch.tensor(v).double().reshape(1, -1) for k, v in step.items()})
    reference = ode_end(Heun(), clean, start, 320)
    for sampler, order in ((Euler(), 1), (Heun(), 2)):
        errors = [float(geometry.distance(ode_end(sampler, clean, start, n), reference)) for n in (10, 20)]
        rates = [math.log2(a / b) for a, b in pairwise(errors)]
        assert rates[-1] == pytest.approx(order, abs=0.25), errors


def test_the_rigid_ode_is_the_solution_of_its_one_dimensional_equations() -> None:
    """Translation shrinks with sigma; the angle follows d angle/dt = -1/2 d sigma^2/dt dlog f/d angle."""
    clean, _ = random_pose("c1ccccc1")
    noise, angle = DockingNoise(), 1.2
    axis = torch.tensor([[0.6, 0.0, 0.8]]).double()
    tr = torch.tensor([[4.0, 1.0, -2.0]]).double()
    empty = torch.zeros(1, 0).double()
    start = DockingGeometry().retract(clean, {"tr": tr, "rot": angle * axis, "tor": empty})
    end = ode_end(Heun(), clean, start, 200)
    ratio = (0.1 / 19.0) ** 0.7
    torch.testing.assert_close(end.centroid() - clean.centroid(), ratio * tr, rtol=1e-3, atol=0)

    def rate(t: float, w: np.ndarray) -> list[float]:
        sigma = noise.sigmas(torch.tensor([t]).double())[1]
        slope = noise.igso3.score(torch.tensor([[w[0], 0, 0]]).double(), sigma)[0, 0]
        return [-0.5 * noise.growth()[1] * float(sigma**2 * slope)]

    expected = solve_ivp(rate, (1.0, 0.3), [angle], rtol=1e-9, atol=1e-10).y[0, -1]
    rotation, _ = superpose(clean.positions, end.positions, clean.mask)
    torch.testing.assert_close(rotation_vector(rotation), expected * axis, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["euler-maruyama", "low-temperature-disco", "low-temperature-diffdock-s"])
def test_stochastic_samplers_come_back_to_the_only_pose_there_is(name: str) -> None:
    clean, _ = random_pose("c1ccccc1")
    sampler = make_sampler(name, named=PUBLISHED)
    field = delta_score(clean, DockingNoise())
    geometry = field.geometry
    start = geometry.retract(clean, {"tr": torch.tensor([[9.0, -9.0, 9.0]]).double(),
                                     "rot": torch.tensor([[1.0, 1.0, 0.0]]).double(),
                                     "tor": torch.zeros(1, 0).double()})  # fmt: skip
    end = sampler.run(field, start, torch.linspace(1, 0, 41, dtype=torch.float64), streams(1))
    assert float(geometry.distance(end, clean)) < 0.5


def test_a_plain_step_of_the_sde_has_the_variance_it_should() -> None:
    """With a score of zero one Euler-Maruyama step adds g sqrt(dt) of unit noise to every part."""
    pose = Pose.concatenate([random_pose("CCCC")[0]] * 4000)
    geometry = DockingGeometry()

    def silent(state: Pose, level: Tensor, *_: object) -> Mapping[str, Tensor]:
        shape = state.torsions.mask.shape
        return {"tr": torch.zeros(len(level), 3).double(), "rot": torch.zeros(len(level), 3).double(),
                "tor": torch.zeros(shape).double()}  # fmt: skip

    field = ScoreField(silent, geometry, Batch(torch.arange(4000)))
    t = torch.tensor([0.5, 0.45]).double()
    moved = EulerMaruyama().step(field, pose, t[0], t[1], streams(4000), 20)
    expected = float(geometry.diffusivity(pose, t[:1].expand(4000))["tr"][0, 0] * 0.05) ** 0.5
    shift = moved.centroid() - pose.centroid()
    assert float(shift.std()) == pytest.approx(expected, rel=0.03)


# ---- the authors' numbers -------------------------------------------------------------------------------------------


@needs_golden
def test_pose_updates_equal_the_authors() -> None:
    g, one = golden("pose_update_6w70"), golden_pose()
    pose = Pose.concatenate([one] * 3).moved_to(g["pos_in"].view(3, -1, 3).double())
    moved = DockingGeometry().retract(pose, {"tr": g["tr"], "rot": g["rot"], "tor": g["tor"].view(3, -1)})
    torch.testing.assert_close(moved.positions, g["pos_out"].view(3, -1, 3).double(), rtol=0, atol=2e-5)


def golden_pose() -> Pose:
    from domains.docking.pose import pose_of

    return pose_of(golden_graph())


@needs_golden
def test_noise_and_target_scores_equal_the_authors() -> None:
    n, noise = golden("noise_6w70"), authors_noise()
    clean = Pose.concatenate([golden_pose()] * 3)
    step = {"tr": n["tr_update"], "rot": n["rot_update"], "tor": n["tor_update"]}
    torch.testing.assert_close(DockingGeometry(noise).retract(clean, step).positions, n["pos_after"], rtol=0, atol=2e-5)
    tr, rot, tor = noise.sigmas(n["t"])
    torch.testing.assert_close(-n["tr_update"] / tr[:, None] ** 2, n["tr_score"], rtol=1e-5, atol=0)
    torch.testing.assert_close(noise.igso3.score(n["rot_update"], rot).float(), n["rot_score"], rtol=1e-4, atol=1e-4)
    # Theirs is read off a table whose rows are 0.13 % apart in sigma.
    torch.testing.assert_close(torus.score(n["tor_update"].float(), tor[:, None]), n["tor_score"], rtol=6e-3, atol=1e-3)


@needs_golden
def test_score_norms_equal_the_authors() -> None:
    t = torch.linspace(0, 1, 50, dtype=torch.float64)
    table = TabledNoise(authors_noise(), golden("score_norm_tables")["torus_score_norm"])
    for ours, theirs in zip(table.score_norms(t), GoldenScale().score_norms(t), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    exact = authors_noise().score_norms(t)[2]
    torch.testing.assert_close(exact, GoldenScale().score_norms(t)[2], rtol=0.05, atol=0)


def test_the_heat_convention_is_plain_brownian_motion_at_small_levels() -> None:
    noise = DockingNoise()
    t = torch.zeros(20000, dtype=torch.float64)
    pose = Pose.concatenate([random_pose("c1ccccc1")[0]] * 20000)
    moved = DockingGeometry(noise).corrupt(pose, t, streams(20000)).state
    rotation, _ = superpose(pose.positions, moved.positions, pose.mask)
    assert float(rotation_vector(rotation).std()) == pytest.approx(0.03, rel=0.02)
    assert noise.igso3 == IGSO3(0.5)
