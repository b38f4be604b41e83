"""Pockets of a protein, and the receptor and atom graphs against the authors' and against the rule."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from core.errors import RequestError
from domains.docking.chemistry.neighbours import nearest_edges
from domains.docking.chemistry.pocket import Around, Box, Sphere
from domains.docking.chemistry.protein import atom_arrays, read_protein, receptor_arrays
from tests.docking_support import GOLDEN, NO_GOLDEN, golden
from tests.protein_support import REAL_PROTEIN, peptide

REAL = read_protein(REAL_PROTEIN)
needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason=NO_GOLDEN)


def edge_set(edges: np.ndarray) -> set[tuple[int, ...]]:
    return set(map(tuple, edges.T.tolist()))


@needs_golden
def test_the_receptor_graph_is_that_of_the_authors() -> None:
    reference = golden("graph_6w70")
    ours = receptor_arrays(REAL)
    centre = reference["original_center"].double().numpy()
    np.testing.assert_array_equal(ours["types"], reference["rec_x"][:, 0].long().numpy())
    np.testing.assert_allclose(ours["positions"] - centre, reference["rec_pos"].numpy(), atol=3e-6)
    np.testing.assert_allclose(REAL.center, centre[0], atol=1e-6)
    assert edge_set(ours["edges"]) == edge_set(reference["rec_edge_index"].numpy())
    assert ours["edges"].shape == (2, 126 * 24)


@needs_golden
def test_the_atoms_are_those_of_the_authors_and_so_are_their_edges_where_eight_are_enough() -> None:
    reference = golden("graph_6w70")
    ours = atom_arrays(REAL)
    centre = reference["original_center"].double().numpy()
    np.testing.assert_array_equal(ours["features"], reference["atom_x"].numpy())
    np.testing.assert_allclose(ours["positions"] - centre, reference["atom_pos"].numpy(), atol=3e-6)
    np.testing.assert_array_equal(ours["residue"], reference["atom_rec_edge_index"][1].numpy())
    theirs = reference["atom_edge_index"].numpy()
    distance = np.linalg.norm(REAL.positions[:, None] - REAL.positions, axis=-1)
    degree = (distance < 5).sum(1) - 1
    few = degree <= 8
    assert few.sum() == 24
    for edges in (theirs, ours["edges"]):
        assert set(np.bincount(edges[1], minlength=960)[few]) == set(degree[few])
    row = edge_set(ours["edges"][:, few[ours["edges"][1]]])
    assert row == edge_set(theirs[:, few[theirs[1]]])
    assert np.bincount(ours["edges"][1]).max() == 8
    assert np.bincount(ours["edges"][0]).max() > 8  # atoms send to their nearest, as in the reference


def test_pockets_keep_whole_residues_with_any_heavy_atom_inside() -> None:
    point = REAL.positions[200]
    near = np.linalg.norm(REAL.positions - point, axis=1)
    expected = sorted(set(REAL.residue[near <= 6.0].tolist()))
    sphere = REAL.crop(Sphere(tuple(point.tolist()), 6.0))
    assert sphere.origin.tolist() == expected
    assert 5 < sphere.n_residues < REAL.n_residues
    assert [sphere.label(i) for i in range(sphere.n_residues)] == [REAL.label(i) for i in expected]
    whole = np.flatnonzero(np.isin(REAL.residue, expected))
    np.testing.assert_array_equal(sphere.positions, REAL.positions[whole])
    np.testing.assert_array_equal(sphere.origin[sphere.residue], REAL.residue[whole])
    np.testing.assert_array_equal(sphere.ca, REAL.ca[expected])
    assert sphere.notes[-1].startswith(f"{len(expected)} of 126 residues are in the sphere of 6 A")
    around = REAL.crop(Around(point[None], 6.0))
    assert around.origin.tolist() == expected
    only_ca = np.linalg.norm(REAL.ca - point, axis=1) <= 6.0
    assert only_ca.sum() < len(expected)
    twice = sphere.crop(Sphere(tuple(point.tolist()), 3.0))
    assert set(twice.origin.tolist()) < set(expected)


def test_a_box_is_along_the_axes_and_read_with_the_file() -> None:
    box = Box(tuple(REAL.center.tolist()), (10.0, 20.0, 30.0))
    cropped = read_protein(REAL_PROTEIN, pocket=box)
    inside = (np.abs(REAL.positions - REAL.center) <= [5, 10, 15]).all(1)
    assert cropped.origin.tolist() == sorted(set(REAL.residue[inside].tolist()))
    everything = REAL.crop(Box(tuple(REAL.center.tolist()), (500.0, 500.0, 500.0)))
    assert (everything.names, everything.n_atoms) == (REAL.names, REAL.n_atoms)


def test_pockets_that_cannot_be_are_named() -> None:
    with pytest.raises(RequestError, match=r"no atom of the protein lies in the sphere of 5 A .*same frame"):
        REAL.crop(Sphere((500.0, 0.0, 0.0), 5.0))
    with pytest.raises(RequestError, match="size of the box must be finite and above 0"):
        Box((0.0, 0.0, 0.0), (1.0, -1.0, 1.0))
    with pytest.raises(RequestError, match="center of the sphere must be finite"):
        Sphere((0.0, float("nan"), 0.0), 5.0)
    with pytest.raises(RequestError, match="radius of the sphere must be finite and above 0"):
        Sphere((0.0, 0.0, 0.0), 0.0)
    with pytest.raises(RequestError, match="reference ligand needs coordinates"):
        Around(np.zeros((0, 3)), 5.0)


def brute_edges(points: np.ndarray, radius: float, most: int, least: int) -> set[tuple[int, ...]]:
    """The rule, word by word."""
    edges = set()
    for i, point in enumerate(points):
        distance = np.linalg.norm(points - point, axis=1)
        others = [j for j in np.argsort(distance, kind="stable").tolist() if j != i]
        chosen = [j for j in others if distance[j] < radius][:most]
        edges |= {(i, j) for j in (chosen if len(chosen) >= least else others[:least])}
    return edges


@pytest.mark.parametrize(("count", "radius", "most", "least"), [(60, 4.0, 8, 0), (60, 4.0, 8, 1), (2, 1e-3, 3, 1)])
def test_neighbours_follow_the_rule(count: int, radius: float, most: int, least: int) -> None:
    points = np.random.default_rng(count).normal(size=(count, 3)) * 4
    edges = nearest_edges(points, radius, most, least=least)
    assert edge_set(edges) == brute_edges(points, radius, most, least)
    assert (np.diff(edges[0]) >= 0).all()
    length = np.linalg.norm(points[edges[0]] - points[edges[1]], axis=1)
    assert (np.diff(length)[np.diff(edges[0]) == 0] >= 0).all()  # nearest first


def test_few_points_and_points_on_each_other() -> None:
    for count in (0, 1):
        assert nearest_edges(np.zeros((count, 3)), 15.0, 24, least=1).shape == (2, 0)
    assert edge_set(nearest_edges(np.zeros((3, 3)), 15.0, 24, least=1)) == {
        pair for pair in product(range(3), repeat=2) if pair[0] != pair[1]
    }
    apart = np.array([[0.0, 0, 0], [15.0, 0, 0], [100.0, 0, 0]])  # at the radius is outside
    assert edge_set(nearest_edges(apart, 15.0, 24)) == set()
    assert edge_set(nearest_edges(apart, 15.0, 24, least=1)) == {(0, 1), (1, 0), (2, 1)}


def test_ties_are_broken_alike_in_every_order_of_the_points() -> None:
    lattice = np.array(list(product(range(5), repeat=3)), dtype=np.float64)
    reference = edge_set(nearest_edges(lattice, 1.5, 8))
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(lattice))
        assert edge_set(order[nearest_edges(lattice[order], 1.5, 8)]) == reference


def test_graphs_do_not_depend_on_the_order_of_residues_and_atoms_or_on_the_frame() -> None:
    rng = np.random.default_rng(0)
    residues, atoms = rng.permutation(REAL.n_residues), rng.permutation(REAL.n_atoms)
    place = np.argsort(residues)
    turn, shift = Rotation.random(random_state=1).as_matrix(), np.array([30.0, -70.0, 110.0])
    moved = replace(
        REAL,
        names=tuple(REAL.names[i] for i in residues),
        ca=REAL.ca[residues] @ turn.T + shift,
        atom_names=tuple(REAL.atom_names[i] for i in atoms),
        elements=tuple(REAL.elements[i] for i in atoms),
        positions=REAL.positions[atoms] @ turn.T + shift,
        residue=place[REAL.residue[atoms]],
    )
    first, second = receptor_arrays(REAL), receptor_arrays(moved)
    np.testing.assert_array_equal(second["types"], first["types"][residues])
    assert edge_set(residues[second["edges"]]) == edge_set(first["edges"])
    first, second = atom_arrays(REAL), atom_arrays(moved)
    np.testing.assert_array_equal(second["features"], first["features"][atoms])
    np.testing.assert_array_equal(residues[second["residue"]], first["residue"][atoms])
    assert edge_set(atoms[second["edges"]]) == edge_set(first["edges"])


def test_ten_thousand_residues(tmp_path: Path) -> None:
    """Two hundred pieces of fifty, side by side."""
    names = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    text = "".join(peptide("GLY " * 50, names[k % 26], 1 + 50 * (k // 26), row=8.0 * k) for k in range(200))
    (tmp_path / "a.pdb").write_text(text)
    protein = read_protein(tmp_path / "a.pdb")
    assert (protein.n_residues, protein.n_atoms, len(protein.chain_sequences())) == (10_000, 40_000, 26)
    edges = receptor_arrays(protein)["edges"]
    counts = np.bincount(edges[0], minlength=10_000)
    assert 1 <= counts.min() <= counts.max() <= 24
    assert len(protein.report.gaps) == 200 - 26
    assert np.bincount(atom_arrays(protein)["edges"][1]).max() == 8
