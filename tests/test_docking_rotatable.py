"""Rotatable bonds against their definition: remove each bond, look at the parts."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import DataError
from domains.docking.chemistry.features import bond_graph
from domains.docking.chemistry.ligand import read_ligand
from domains.docking.chemistry.rotatable import rotatable_bonds

Found = list[tuple[tuple[int, int], frozenset[int]]]
MOLECULES = {
    "methane": ("C", 0),
    "ethane": ("CC", 0),
    "propane": ("CCC", 0),
    "butane": ("CCCC", 1),
    "isobutane": ("CC(C)C", 0),
    "benzene": ("c1ccccc1", 0),
    "biphenyl": ("c1ccccc1-c1ccccc1", 1),
    "toluene": ("Cc1ccccc1", 0),
    "amide": ("CCC(=O)NCC", 3),
    "butadiyne": ("C#CC#C", 1),
    "but-2-ene": ("CC=CC", 1),
    "macrocycle": ("C1CCCCCCCCCCCC1CC", 1),
    "spiro": ("C1CCC2(CC1)CCCC2", 0),
    "cubane": ("C12C3C4C1C5C2C3C45", 0),
    "chain": ("C" * 63, 60),
    "star": ("CC(CC)(CCC)CCCC", 6),
    "6W70": ("COc1ccc(-n2nc(C(N)=O)c3c2C(=O)N(c2ccc(N4CCCCC4=O)cc2)CC3)cc1", 5),
}


def by_definition(n_atoms: int, edges: Sequence[tuple[int, int]]) -> Found:
    """Bonds (u, v) and the part of v that moves, by removing one bond after the other."""
    found: Found = []
    for k, (u, v) in enumerate(edges):
        rest = [edge for other, edge in enumerate(edges) if other != k]
        of_u, of_v = reached(u, rest), reached(v, rest)
        if v in of_u or min(len(of_u), len(of_v)) < 2:
            continue
        moves_v = (len(of_v), min(of_v)) < (len(of_u), min(of_u))
        found.append(((u, v), of_v) if moves_v else ((v, u), of_u))
    assert all(vertex < n_atoms for edge in edges for vertex in edge)
    return found


def reached(start: int, edges: Sequence[tuple[int, int]]) -> frozenset[int]:
    part = {start}
    while more := {b for a, b in edges if a in part} | {a for a, b in edges if b in part}:
        if more <= part:
            break
        part |= more
    return frozenset(part)


def ours(n_atoms: int, edges: Sequence[tuple[int, int]]) -> Found:
    index = np.array([pair for u, v in edges for pair in ((u, v), (v, u))], dtype=np.int64).reshape(-1, 2).T
    bonds, moves = rotatable_bonds(n_atoms, index)
    parts = [frozenset(np.flatnonzero(row).tolist()) for row in moves]
    return [((int(u), int(v)), part) for (u, v), part in zip(bonds, parts, strict=True)]


@pytest.mark.parametrize("name", MOLECULES)
def test_molecules(name: str) -> None:
    smiles, count = MOLECULES[name]
    ligand = read_ligand(smiles)
    edges = [(int(u), int(v)) for u, v in bond_graph(ligand.mol)[0][:, ::2].T]
    found = ours(ligand.n_atoms, edges)
    assert found == by_definition(ligand.n_atoms, edges)
    assert len(found) == count


@pytest.mark.parametrize(
    ("smiles", "without", "with_kinds"),
    [
        ("C/C=C/C", 1, 0),
        ("C/C=C/CC", 2, 1),
        ("C#CC#C", 1, 1),
        ("CC#CC", 1, 0),
        ("CCC(=O)NCC", 3, 3),
        ("CCN=C(CC)CC", 4, 3),
        ("c1ccccc1-c1ccccc1", 1, 1),
        ("CCS(=O)(=O)CC", 2, 2),
    ],
)
def test_double_and_triple_bonds_do_not_turn_where_their_kind_is_known(
    smiles: str, without: int, with_kinds: int
) -> None:
    ligand = read_ligand(smiles)
    index, kinds = bond_graph(ligand.mol)
    every, moves = rotatable_bonds(ligand.n_atoms, index)
    some, parts = rotatable_bonds(ligand.n_atoms, index, kinds)
    assert (len(every), len(some)) == (without, with_kinds)
    order = {(min(i, j), max(i, j)): int(k) for (i, j), k in zip(index.T.tolist(), kinds, strict=True)}
    kept = [order[min(u, v), max(u, v)] not in (1, 2) for u, v in every.tolist()]
    np.testing.assert_array_equal(some, every[kept])  # the others turn as before
    np.testing.assert_array_equal(parts, moves[kept])


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """Up to 12 atoms, a random forest with some bonds more."""
    n = draw(st.integers(1, 12))
    pairs = [(i, j) for j in range(n) for i in range(j)]
    tree = [(draw(st.integers(0, j - 1)), j) for j in range(1, n) if draw(st.integers(0, 9))]
    extra = draw(st.lists(st.sampled_from(pairs), max_size=3)) if pairs else []
    edges = draw(st.permutations(sorted({*tree, *extra})))
    return n, [edge if draw(st.booleans()) else edge[::-1] for edge in edges]


@settings(max_examples=200, deadline=None)
@given(graphs())
def test_random_graphs(graph: tuple[int, list[tuple[int, int]]]) -> None:
    assert ours(*graph) == by_definition(*graph)


@settings(max_examples=50, deadline=None)
@given(graphs())
def test_parts_are_nested_or_disjoint(graph: tuple[int, list[tuple[int, int]]]) -> None:
    parts = [part for _, part in ours(*graph)]
    assert all(a <= b or b <= a or not a & b for a in parts for b in parts)


def test_of_two_halves_the_one_with_the_first_atom_moves() -> None:
    assert ours(4, [(0, 1), (1, 2), (2, 3)]) == [((2, 1), frozenset({0, 1}))]
    assert ours(4, [(3, 2), (2, 1), (1, 0)]) == [((2, 1), frozenset({0, 1}))]


def test_a_very_long_chain_takes_no_recursion() -> None:
    count = 2000
    bonds, moves = rotatable_bonds(
        count, np.array([pair for i in range(count - 1) for pair in ((i, i + 1), (i + 1, i))]).T
    )
    assert len(bonds) == count - 3
    assert moves.sum(1).max() == count // 2


def test_columns_that_are_no_bonds_are_refused() -> None:
    with pytest.raises(DataError, match="two columns"):
        rotatable_bonds(2, np.array([[0], [1]]))
    with pytest.raises(DataError, match="two columns"):
        rotatable_bonds(3, np.array([[0, 1], [1, 2]]))
    with pytest.raises(DataError, match="3 atoms"):
        rotatable_bonds(3, np.array([[0, 3], [3, 0]]))
