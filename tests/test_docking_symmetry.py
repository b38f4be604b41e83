"""Symmetries that the docking networks must have, and complexes at the edge of what there can be."""

from dataclasses import replace
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from domains.docking.graph import ATOM_IN, ATOM_NEAR, BOND, NEAR, TORSION, Structure
from domains.docking.networks.backbone import AUTHORS, BackboneOptions, Quirks
from domains.docking.networks.confidence import ConfidenceNet, ConfidenceOptions, ConfidenceQuirks
from domains.docking.networks.denoiser import DockingDenoiser
from domains.docking.networks.encoder import DockingEncoder
from domains.docking.networks.latents import LatentInput, NodeLatents

SMALL = BackboneOptions(
    layers=4, scalars=6, vectors=3, sigma_dim=4, distance_dim=5, latent_width=2, ligand_radius=3.0, cross_radius=30.0,
    dropped=True, dropout=0.0, cross_cutoff=9.0,
)  # fmt: skip


def graph(atoms: int, residues: int, seed: int, *, torsions: int = 1, near: int = 4, far: float = 0.0) -> HeteroData:
    """A made-up complex: a chain of ``atoms``, residues around it, two protein atoms per residue; ``far`` moves all
    residues away from the ligand by that many Angstrom."""
    g = torch.Generator().manual_seed(seed)
    data = HeteroData()
    data["ligand"].x = torch.randint(0, 2, (atoms, 16), generator=g)
    data["ligand"].pos = torch.randn(atoms, 3, generator=g).double() * 1.5
    data["ligand"].group = torch.full((atoms,), -1)
    ends = torch.arange(atoms - 1)
    data[BOND].edge_index = torch.cat([torch.stack([ends, ends + 1]), torch.stack([ends + 1, ends])], dim=1)
    data[BOND].kind = torch.cat([ends, ends]) % 4
    chosen = ends[1 : 1 + torsions]
    data[TORSION].edge_index = torch.stack([chosen, chosen + 1])
    data[TORSION].parent = torch.full((len(chosen),), -1)
    ca = torch.randn(residues, 3, generator=g).double() * 5 + far
    data["receptor"].x, data["receptor"].pos = torch.randint(0, 20, (residues, 1), generator=g), ca
    data[NEAR].edge_index = neighbours(ca, min(near, residues - 1))
    place = ca.repeat_interleave(2, 0) + torch.randn(2 * residues, 3, generator=g).double()
    data["atom"].x, data["atom"].pos = torch.randint(0, 20, (2 * residues, 4), generator=g), place
    data[ATOM_NEAR].edge_index = neighbours(place, min(3, 2 * residues - 1))
    data[ATOM_IN].edge_index = torch.stack([torch.arange(2 * residues), torch.arange(residues).repeat_interleave(2)])
    return data


def neighbours(points: Tensor, count: int) -> Tensor:
    """[2, E] every point receives from the ``count`` nearest others."""
    order = torch.cdist(points, points).argsort(1)[:, 1 : count + 1]
    return torch.stack([torch.arange(len(points)).repeat_interleave(count), order.flatten()])


def structure(*graphs: HeteroData) -> Structure:
    return Structure.of(graphs).to("cpu", torch.float64)


Net = TypeVar("Net", bound=nn.Module)


def lively(model: Net) -> Net:
    """Evaluation in float64 with running statistics and null embeddings that are not the identity."""
    g = torch.Generator().manual_seed(5)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and ("running" in name or "null" in name):
            centre = -0.5 if "mean" in name else 0.5  # means near 0 keep the heads' ReLUs alive
            value.copy_(torch.rand(value.shape, generator=g) + centre)
    return model.double().eval()


def denoiser(quirks: Quirks = Quirks()) -> DockingDenoiser:
    torch.manual_seed(3)
    return lively(DockingDenoiser(replace(SMALL, quirks=quirks), GoldenScaleLike(), LatentInput("pointer", 2)))


class GoldenScaleLike:
    """Simple noise levels, no tables."""

    def sigmas(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return t + 0.1, t + 0.2, t + 0.3

    def score_norms(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return 1 / (t + 0.1), 2 / (t + 0.2), 3 / (t + 0.3)


def pointers(complexes: Structure, dropped: Tensor | None = None) -> NodeLatents:
    g = torch.Generator().manual_seed(7)
    atoms, residues = (torch.rand(len(x), 2, generator=g).double() for x in (complexes.atoms, complexes.ca))
    off = torch.zeros(complexes.size) if dropped is None else dropped
    keep = (1 - off.double())[:, None]
    return NodeLatents(atoms * keep[complexes.atom_sample], residues * keep[complexes.residue_sample], off.double())


Scores = tuple[Tensor, Tensor, Tensor]


def scores(model: DockingDenoiser, complexes: Structure, positions: Tensor, latents: NodeLatents) -> Scores:
    t = torch.linspace(0.3, 0.8, complexes.size, dtype=torch.float64)
    with torch.no_grad():
        return model.flat_scores(complexes, positions, t, latents)


def rotation() -> Tensor:
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(9)).double())
    return q * torch.linalg.det(q)


def moved(data: HeteroData, turn: Tensor, shift: Tensor) -> HeteroData:
    data = data.clone()
    for kind in ("ligand", "receptor", "atom"):
        data[kind].pos = data[kind].pos @ turn.T + shift
    return data


def permuted(data: HeteroData, kind: str, order: Tensor) -> HeteroData:
    """Nodes of one kind in another order: new node i is old node ``order[i]``."""
    data, number = data.clone(), order.argsort()
    for key, value in data[kind].items():
        data[kind][key] = value[order]
    for (source, _, target), store in zip(data.edge_types, data.edge_stores, strict=True):
        index = store.edge_index
        rows = [number[row] if end == kind else row for end, row in zip((source, target), index, strict=True)]
        store.edge_index = torch.stack(rows)
    sort = data[ATOM_IN].edge_index[0].argsort()  # its row 0 counts the atoms
    data[ATOM_IN].edge_index = data[ATOM_IN].edge_index[:, sort]
    return data


SHIFT = torch.tensor([3.0, -2.0, 5.0], dtype=torch.float64)
TIGHT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.mark.parametrize("quirks", [Quirks(), AUTHORS], ids=["plain", "authors"])
def test_scores_turn_with_the_complex(quirks: Quirks) -> None:
    model, turn, data = denoiser(quirks), rotation(), graph(9, 14, 0, torsions=3)
    before, after = structure(data), structure(moved(data, turn, SHIFT))
    tr, rot, tor = scores(model, before, data["ligand"].pos, pointers(before))
    other = scores(model, after, moved(data, turn, SHIFT)["ligand"].pos, pointers(before))
    torch.testing.assert_close(other, (tr @ turn.T, rot @ turn.T, tor), **TIGHT)


def test_a_mirror_image_turns_true_vectors_axial_vectors_and_pseudoscalars_as_it_must() -> None:
    """The heads add vectors of both parities; each part, and the two kinds of torsion channels, are checked alone."""
    model, data, mirror = denoiser(), graph(9, 14, 0, torsions=3), -torch.eye(3, dtype=torch.float64)
    parts: dict[str, list[Tensor]] = {"rigid": [], "torsion": []}
    for name, outputs in parts.items():
        model.get_submodule(f"{name}.norm").register_forward_hook(lambda *call, to=outputs: to.append(call[2]))
    for each in (data, moved(data, mirror, SHIFT)):
        scores(model, structure(each), each["ligand"].pos, pointers(structure(each)))
    true, axial = parts["rigid"][0].view(-1, 2, 6).unbind(1)
    torch.testing.assert_close(parts["rigid"][1], torch.stack([-true, axial], 1).flatten(1), **TIGHT)
    scalars, pseudoscalars = parts["torsion"][0].chunk(2, dim=1)
    torch.testing.assert_close(parts["torsion"][1], torch.cat([scalars, -pseudoscalars], 1), **TIGHT)
    assert float(axial.abs().max()) > 1e-3
    assert float(pseudoscalars.abs().max()) > 1e-6


@pytest.mark.parametrize("kind", ["ligand", "receptor", "atom"])
def test_the_order_of_nodes_does_not_matter(kind: str) -> None:
    data = graph(9, 14, 0, torsions=3)
    order = torch.randperm(len(data[kind].pos), generator=torch.Generator().manual_seed(1))
    other = permuted(data, kind, order)
    before, after, model = structure(data), structure(other), denoiser()
    known = pointers(before)
    assert known.atoms is not None
    assert known.residues is not None
    atoms = known.atoms[order] if kind == "ligand" else known.atoms
    residues = known.residues[order] if kind == "receptor" else known.residues
    expected = scores(model, before, data["ligand"].pos, known)
    found = scores(model, after, other["ligand"].pos, NodeLatents(atoms, residues, known.unconditional))
    torch.testing.assert_close(found, expected, **TIGHT)
    confidence = confidence_net()
    with torch.no_grad():
        torch.testing.assert_close(
            confidence(after, other["ligand"].pos), confidence(before, data["ligand"].pos), **TIGHT
        )


@pytest.mark.parametrize("kind", ["ligand", "receptor"])
def test_latent_logits_follow_their_nodes(kind: str) -> None:
    torch.manual_seed(3)
    options = replace(SMALL, sigma_dim=0, latent_width=0, dropped=False)
    encoder = lively(DockingEncoder(options, LatentInput("pointer", 2)))
    data = graph(9, 14, 0)
    order = torch.randperm(len(data[kind].pos), generator=torch.Generator().manual_seed(1))
    other = permuted(data, kind, order)
    whole = torch.arange(9 + 14)
    whole = torch.cat([order, whole[9:]]) if kind == "ligand" else torch.cat([whole[:9], 9 + order])
    with torch.no_grad():
        before = encoder.logits(structure(data), data["ligand"].pos)
        turn = rotation()
        turned = moved(data, turn, SHIFT)
        after = encoder.logits(structure(other), other["ligand"].pos)
        invariant = encoder.logits(structure(turned), turned["ligand"].pos)
    torch.testing.assert_close(after.values, before.values[:, :, whole], **TIGHT)
    torch.testing.assert_close(invariant.values, before.values, **TIGHT)


def test_a_sample_is_the_same_in_any_company() -> None:
    """Complexes of other sizes, one atom, no torsions, residues without neighbours, a ligand far from every residue."""
    odd = [
        graph(9, 14, 0, torsions=3), graph(1, 5, 1, torsions=0), graph(2, 3, 2, torsions=0),
        graph(6, 20, 3, torsions=0), graph(7, 1, 4), graph(5, 8, 5, far=100.0), graph(8, 6, 6, near=0),
    ]  # fmt: skip
    every = structure(*odd)
    t = torch.linspace(0.3, 0.8, len(odd), dtype=torch.float64)
    latents = pointers(every)
    assert latents.atoms is not None
    assert latents.residues is not None
    confidence, model = confidence_net(), denoiser()
    with torch.no_grad():
        positions = torch.cat([data["ligand"].pos for data in odd])
        tr, rot, tor = model.flat_scores(every, positions, t, latents)
        logits = confidence(every, positions)
        for number, data in enumerate(odd):
            one = structure(data)
            mine = NodeLatents(
                latents.atoms[every.atom_sample == number], latents.residues[every.residue_sample == number],
                torch.zeros(1).double(),
            )  # fmt: skip
            alone = model.flat_scores(one, data["ligand"].pos, t[number : number + 1], mine)
            own = slice(number, number + 1)
            expected = (tr[own], rot[own], tor[every.torsion_sample == number])
            torch.testing.assert_close(alone, expected, **TIGHT)
            torch.testing.assert_close(confidence(one, data["ligand"].pos), logits[own], **TIGHT)
    for value in (tr, rot, tor, logits):
        assert bool(value.isfinite().all())


def test_gradients_are_finite_for_odd_complexes() -> None:
    odd = [graph(1, 5, 1, torsions=0), graph(2, 3, 2, torsions=0), graph(7, 1, 4), graph(5, 8, 5, far=100.0)]
    every, model = structure(*odd), denoiser().train()
    positions = torch.cat([data["ligand"].pos for data in odd])
    out = model.flat_scores(every, positions, torch.full((4,), 0.5).double(), pointers(every))
    sum(value.square().sum() for value in out).backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


def test_dropped_latents_have_no_influence_and_the_null_embedding_has() -> None:
    model, data = denoiser(), graph(9, 14, 0, torsions=3)
    one = structure(data)
    dropped = pointers(one, torch.ones(1))
    unknown = model.latents(one, None)
    torch.testing.assert_close(
        scores(model, one, data["ligand"].pos, dropped), scores(model, one, data["ligand"].pos, unknown)
    )
    kept = scores(model, one, data["ligand"].pos, pointers(one))
    no_null = NodeLatents(unknown.atoms, unknown.residues, torch.zeros(1).double())
    zeros = scores(model, one, data["ligand"].pos, no_null)
    null = scores(model, one, data["ligand"].pos, unknown)
    for first, second in ((kept, zeros), (kept, null), (zeros, null)):
        assert float((first[0] - second[0]).abs().max()) > 1e-6


def test_residues_that_no_atom_can_feel_change_nothing() -> None:
    """In evaluation they are not computed; in training mode (with fixed statistics) they are."""
    model, data = denoiser(), graph(6, 40, 8, torsions=2)
    one = structure(data)
    quick = scores(model, one, data["ligand"].pos, pointers(one))
    model.backbone.training = True
    torch.testing.assert_close(scores(model, one, data["ligand"].pos, pointers(one)), quick, **TIGHT)


def confidence_net(quirks: ConfidenceQuirks = ConfidenceQuirks()) -> ConfidenceNet:
    torch.manual_seed(4)
    return lively(
        ConfidenceNet(
            ConfidenceOptions(
                layers=4, scalars=6, vectors=3, sigma_dim=4, distance_dim=5, ligand_radius=3.0, cross_radius=30.0,
                cross_cutoff=9.0, quirks=quirks,
            )
        )
    )  # fmt: skip


@pytest.mark.parametrize("quirks", [ConfidenceQuirks(), ConfidenceQuirks(True, True)], ids=["plain", "authors"])
def test_confidence_is_invariant_and_keeps_nothing_stale(quirks: ConfidenceQuirks) -> None:
    model, data = confidence_net(quirks), graph(9, 14, 0)
    turned = moved(data, rotation(), SHIFT)
    complexes = structure(data)
    with torch.no_grad():
        before = model(complexes, data["ligand"].pos)
        torch.testing.assert_close(model(structure(turned), turned["ligand"].pos), before, **TIGHT)
        far = model(complexes, data["ligand"].pos + 2)
        torch.testing.assert_close(model(complexes, data["ligand"].pos), before, rtol=0, atol=0)
        assert float((far - before).abs().max()) > 1e-5
        for parameter in model.types["atom"].parameters():
            parameter.mul_(2)
        changed = model(complexes, data["ligand"].pos)
        torch.testing.assert_close(changed, model(structure(data), data["ligand"].pos), rtol=0, atol=0)
        assert float((changed - before).abs().max()) > 1e-8
    torch.testing.assert_close(model(complexes, data["ligand"].pos).detach(), changed, **TIGHT)
