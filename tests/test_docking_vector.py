"""The light vector network and its force head: symmetries, independence of the batch, nearest neighbours."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from core.geometry.rigid import random_rotation
from core.types import Tangent
from domains.docking.graph import Structure
from domains.docking.networks.backbone import BackboneOptions, Inputs
from domains.docking.networks.denoiser import DockingDenoiser
from domains.docking.networks.forces import moved_atoms
from domains.docking.networks.latents import LatentInput, NodeLatents
from domains.docking.networks.nearest import nearest
from domains.docking.networks.vector import VectorBackbone, pair_kinds
from domains.docking.pose import Pose, pose_of
from domains.docking.torsion import turn
from tests.test_docking_symmetry import GoldenScaleLike, graph, pointers

SMALL = BackboneOptions(
    network="vector", layers=3, scalars=12, vectors=4, sigma_dim=4, distance_dim=6, latent_width=2, ligand_radius=8.0,
    residue_radius=15.0, atom_radius=6.0, cross_cutoff=20.0, dropped=True, dropout=0.0,
)  # fmt: skip


def network() -> DockingDenoiser:
    torch.manual_seed(3)
    return DockingDenoiser(SMALL, GoldenScaleLike(), LatentInput("pointer", 2)).double().eval()


def poses(*graphs: HeteroData) -> Pose:
    return Pose.concatenate([pose_of(each, each["ligand"].pos) for each in graphs]).to("cpu", torch.float64)


def scores(*graphs: HeteroData, latents: NodeLatents | None = None) -> Tangent:
    complexes, pose = Structure.of(graphs).to("cpu", torch.float64), poses(*graphs)
    model, t = network(), torch.linspace(0.2, 0.9, len(graphs)).double()[: len(graphs)]
    known = latents or pointers(complexes)
    return model._force_scores(pose, complexes, pose.flat, t, known)


def moved(data: HeteroData, rotation: Tensor, shift: Tensor) -> HeteroData:
    """Ligand and protein together."""
    other = data.clone()
    for kind in ("ligand", "receptor", "atom"):
        other[kind].pos = data[kind].pos @ rotation.T + shift
    return other


def test_scores_turn_with_the_complex() -> None:
    rotation = random_rotation(torch.tensor([[0.3, -1.0, 0.4, 0.8]]).double())[0]
    shift = torch.tensor([3.0, -4.0, 5.0]).double()
    data = graph(9, 12, 1, torsions=3)
    before, after = scores(data), scores(moved(data, rotation, shift))
    for name in ("tr", "rot"):
        assert before[name].abs().max() > 1e-3
        torch.testing.assert_close(after[name], before[name] @ rotation.T, rtol=1e-9, atol=1e-9)
    assert before["tor"].abs().max() > 1e-4
    torch.testing.assert_close(after["tor"], before["tor"], rtol=1e-9, atol=1e-9)


def test_the_mirror_image_has_mirrored_scores() -> None:
    """Forces are true vectors: a reflection reflects them, turns torques into their axial images, and flips torsions.

    Chirality reaches the network by the ligand's chirality tags alone.
    """
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0])).double()
    data = graph(9, 12, 2, torsions=3)
    before, after = scores(data), scores(moved(data, mirror, torch.zeros(3).double()))
    torch.testing.assert_close(after["tr"], before["tr"] @ mirror.T, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(after["rot"], -before["rot"] @ mirror.T, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(after["tor"], -before["tor"], rtol=1e-9, atol=1e-9)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    graphs = [graph(5, 7, 3, torsions=1), graph(11, 14, 4, torsions=4), graph(2, 3, 5, torsions=0)]
    complexes = Structure.of(graphs).to("cpu", torch.float64)
    known = pointers(complexes)
    together = scores(*graphs, latents=known)
    model, t = network(), torch.linspace(0.2, 0.9, 3).double()
    for i, each in enumerate(graphs):
        one, pose = Structure.of([each]).to("cpu", torch.float64), poses(each)
        mine = NodeLatents(
            known.atoms[complexes.atom_sample == i], known.residues[complexes.residue_sample == i],
            known.unconditional[i : i + 1],
        )  # fmt: skip
        alone = model._force_scores(pose, one, pose.flat, t[i : i + 1], mine)
        for name, value in alone.items():
            expected = together[name][i : i + 1, : value.shape[1]]
            torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-10)


def test_a_ligand_of_one_atom_has_finite_scores_and_gradients() -> None:
    model = network().train()
    data = graph(1, 4, 6, torsions=0)
    complexes, pose = Structure.of([data]).to("cpu", torch.float64), poses(data)
    out = model._force_scores(pose, complexes, pose.flat, torch.tensor([0.5]).double(), pointers(complexes))
    sum(value.square().sum() for value in out.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert torch.equal(out["rot"], torch.zeros(1, 3).double())


def test_a_ligand_far_from_everything_hears_nothing_of_it() -> None:
    near, far = graph(6, 8, 7, torsions=1), graph(6, 8, 7, torsions=1)
    for kind in ("receptor", "atom"):
        far[kind].pos = far[kind].pos + 500
    values = scores(far)
    assert all(value.isfinite().all() for value in values.values())
    assert not torch.allclose(values["tr"], scores(near)["tr"])


def test_torsion_forces_act_on_the_parts_that_turn() -> None:
    """The atoms that a bond moves are those that turning it moves."""
    data = graph(10, 5, 8, torsions=0)
    data["ligand"].group = torch.tensor([-1, -1, 0, 0, 1, 1, 2, 2, -1, -1])
    from domains.docking.graph import TORSION

    data[TORSION].edge_index = torch.tensor([[1, 3, 5], [2, 4, 6]])
    data[TORSION].parent = torch.tensor([-1, 0, 1])
    pose = poses(data)
    moves = moved_atoms(pose.torsions, 10)[0]
    for bond in range(3):
        angles = torch.zeros(1, 3).double()
        angles[0, bond] = 1.0
        change = (turn(pose.positions, pose.torsions, angles) - pose.positions).norm(dim=-1)[0] > 1e-9
        assert not (change & ~moves[bond]).any()
        assert change.sum() >= moves[bond].sum() - 1  # the atom on the axis may stay
    assert moves.sum(1).tolist() == [6, 4, 2]


def test_nearest_finds_what_sorting_finds() -> None:
    g = torch.Generator().manual_seed(9)
    a, b = torch.randn(7, 3, generator=g).double(), torch.randn(9, 3, generator=g).double()
    a_slot = (torch.tensor([0, 0, 0, 1, 1, 1, 1]), torch.tensor([0, 1, 2, 0, 1, 2, 3]))
    b_slot = (torch.tensor([0] * 4 + [1] * 5), torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4]))
    found = nearest(a, a_slot, b, b_slot, 2, 3, 1.8)
    for i in range(7):
        mine = (b_slot[0] == a_slot[0][i]).nonzero()[:, 0]
        distance = (b[mine] - a[i]).norm(dim=1)
        expected = {int(mine[k]) for k in distance.argsort()[:3] if distance[k] <= 1.8}
        assert {int(j) for j in found.index[i][found.real[i]]} == expected
    assert torch.all(found.sums.transpose(1, 2)[~found.real] == 0)


def test_messages_fade_out_at_the_radius() -> None:
    slot = (torch.tensor([0]), torch.tensor([0]))
    ends = [nearest(torch.zeros(1, 3), slot, torch.tensor([[0.0, 0.0, d]]), slot, 1, 1, 4.0).sums for d in (3.999, 2.0)]
    assert float(ends[0].abs().max()) < 1e-5
    assert float(ends[1][0, 0, 0]) == pytest.approx(0.5, abs=1e-4)


def test_pairs_are_bonds_or_two_bonds_apart_or_further() -> None:
    data = graph(4, 3, 10, torsions=0)
    kinds = pair_kinds(Structure.of([data, graph(2, 3, 11, torsions=0)]))
    assert kinds[0].tolist() == [4, 0, 4, 5]  # itself, bond kind 0, two bonds, three bonds
    assert kinds[4, 1] == 0


def test_residues_can_be_read_where_the_network_was_built_for_it() -> None:
    data = graph(4, 6, 12)
    complexes = Structure.of([data]).to("cpu", torch.float64)
    options = replace(SMALL, sigma_dim=0, latent_width=0, dropped=False)
    inputs = Inputs(data["ligand"].pos)
    features = VectorBackbone(options, True).double()(complexes, inputs, True)
    assert features.receptor is not None
    assert features.receptor.shape == (6, 12)
    with pytest.raises(ValueError, match="without updates"):
        VectorBackbone(options, False).double()(complexes, inputs, True)
