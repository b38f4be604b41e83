"""Atom rows of a structure file grouped into monomers (residues, ligands, waters), each in one conformer."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from domains.docking.chemistry.residues import atom_element

BACKBONE = frozenset({"N", "CA", "C"})


class AtomRow(NamedTuple):
    """One atom as written in the file; ``altloc`` is "" where there is no alternate location."""

    chain: str
    number: str  # author's residue number with insertion code, "-5", "52A"
    name: str  # of the residue
    hetero: bool  # HETATM
    atom: str
    altloc: str
    occupancy: float
    element: str
    position: tuple[float, float, float]  # Angstrom


@dataclass(frozen=True)
class Monomer:
    """Heavy atoms of one residue, ligand or water in one conformer, in the order in which the file names them.

    altlocs: letters of the conformers in the file (" " for one without letter), none where there is only one; the first
    is the one that was taken. duplicates: atoms given twice, of which the first was taken.
    """

    chain: str
    number: str
    name: str
    hetero: bool
    atoms: tuple[AtomRow, ...]
    altlocs: tuple[str, ...]
    hydrogens: int
    duplicates: int

    @property
    def label(self) -> str:
        """``ASP A 52A``."""
        return " ".join(part for part in (self.name, self.chain, self.number) if part)

    @property
    def positions(self) -> dict[str, tuple[float, float, float]]:
        return {row.atom: row.position for row in self.atoms}

    @property
    def has_backbone(self) -> bool:
        return {row.atom for row in self.atoms} >= BACKBONE


def monomers(rows: Iterable[AtomRow]) -> list[Monomer]:
    """Monomers chain by chain, in the order in which the file first names the chains and their residues.

    Rows with one chain and residue number are one monomer, also where other rows lie between them (alternate
    conformers in blocks), unless the residue name changes without alternate location or atoms come a second time:
    then the number was given twice.
    """
    chains: dict[str, list[_Draft]] = {}
    latest: dict[tuple[str, str], _Draft] = {}
    for row in rows:
        drafts = chains.setdefault(row.chain, [])
        draft = latest.get((row.chain, row.number))
        if draft is None or not draft.takes(row, last=drafts[-1] is draft):
            draft = _Draft(row)
            drafts.append(draft)
            latest[row.chain, row.number] = draft
        draft.add(row)
    return [draft.monomer() for drafts in chains.values() for draft in drafts]


@dataclass
class _Draft:
    first: AtomRow
    rows: dict[tuple[str, str, str], AtomRow] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    lettered: bool = True
    duplicates: int = 0

    def takes(self, row: AtomRow, last: bool) -> bool:
        """Whether the row belongs here; ``last``: no other monomer of the chain came between."""
        if row.name not in self.names:
            return self.lettered and row.altloc != ""
        twin = self.rows.get((row.name, row.atom, row.altloc))
        if twin is None:
            return True
        return twin.position == row.position or (last and row.atom != self.first.atom)

    def add(self, row: AtomRow) -> None:
        self.names.add(row.name)
        self.lettered &= row.altloc != ""
        self.duplicates += (row.name, row.atom, row.altloc) in self.rows
        self.rows.setdefault((row.name, row.atom, row.altloc), row)

    def monomer(self) -> Monomer:
        """The conformer with the highest total occupancy of its heavy atoms, the first letter of equals.

        Conformers without a whole backbone are passed over where another has it.
        """
        elements = [atom_element(row.name, row.atom, row.element) for row in self.rows.values()]
        pairs = zip(self.rows.values(), elements, strict=True)
        heavy = [row._replace(element=element) for row, element in pairs if element != "H"]
        alternate = {row.atom for row in heavy if row.altloc}
        letters = [(row.altloc or " ") if row.atom in alternate else "" for row in heavy]  # "": of all conformers
        total: dict[str, float] = dict.fromkeys(letters, 0.0)
        atoms: dict[str, set[str]] = {letter: set() for letter in letters}
        for row, letter in zip(heavy, letters, strict=True):
            total[letter] += row.occupancy
            atoms[letter].add(row.atom)
        common = atoms.get("", set())
        ranked = sorted(
            (letter for letter in total if letter),
            key=lambda letter: (not common | atoms[letter] >= BACKBONE, -round(total[letter], 6), letter),
        )
        place = {row.atom: number for number, row in reversed(list(enumerate(heavy)))}
        taken = [row for row, letter in zip(heavy, letters, strict=True) if letter in ("", *ranked[:1])]
        taken.sort(key=lambda row: place[row.atom])
        head = next((row for row in taken if row.altloc), taken[0] if taken else self.first)
        hydrogens = elements.count("H")
        known = self.first
        return Monomer(
            known.chain, known.number, head.name, head.hetero, tuple(taken), tuple(ranked), hydrogens, self.duplicates
        )
