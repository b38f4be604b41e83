"""What became of every complex of a folder, and what it shares with those of another: rows of ``disco complexes``."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from core.errors import DataError
from domains.docking.complex import Complex
from domains.docking.data.prepare import Preparation, counted, prepared_complexes
from domains.docking.data.sequences import SIMILAR, nearest
from domains.docking.data.sources import Source
from domains.docking.data.store import Cache, Prepared
from domains.docking.graph import TORSION

Row = dict[str, Any]
ENTRY = re.compile(r"(?:^|_)([1-9][a-z0-9]{3})(?=_|$)", re.IGNORECASE)


@dataclass
class Report:
    """Rows by complex, in order of their names; of those that can be used chains, ligand (SMILES) and PDB entry."""

    rows: dict[str, Row] = field(default_factory=dict)
    chains: dict[str, list[str]] = field(default_factory=dict)
    ligands: dict[str, str] = field(default_factory=dict)
    entries: dict[str, str] = field(default_factory=dict)

    def only(self, names: Iterable[str]) -> "Report":
        """The part about some complexes; rows are shared."""
        kept = set(names)

        def part(values: dict[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in values.items() if name in kept}

        return Report(part(self.rows), part(self.chains), part(self.ligands), part(self.entries))

    def of_split(self, split: str) -> "Report":
        """The complexes of a split. Raises DataError where none of them can be used."""
        part = self.only(name for name, row in self.rows.items() if row["split"] == split)
        if not part.chains:
            raise DataError(
                f"no complex of the split '{split}' can be used: give a table or lists of splits that has it"
            )
        return part

    def summary(self) -> str:
        """How many can be used, and why the others cannot."""
        used, wrong = len(self.chains), [row["reason"] for row in self.rows.values() if not row["used"]]
        return f"{used} of {len(self.rows)} complexes can be used" + (f"; left out: {counted(wrong)}" if wrong else "")


def report_on(sources: Sequence[Source], preparation: Preparation, cache: Cache, workers: int) -> Report:
    """Prepare all complexes, one after the other in memory, which fills the cache."""
    found = {source.name: (source, *_facts(source, prepared, cached))
             for source, prepared, cached in prepared_complexes(sources, preparation, cache, workers)}  # fmt: skip
    report = Report()
    for name in sorted(found):
        source, row, chains, ligand = found[name]
        report.rows[name] = row
        if row["used"]:
            report.chains[name], report.ligands[name], report.entries[name] = chains, ligand, pdb_entry(source)
    return report


def compare(tested: Report, trained: Report) -> str:
    """Add to the rows of ``tested`` what each shares with ``trained``; returns the summary of it.

    Columns: nearest (the complex with the most similar chain) and its identity, same_pdb and same_ligand (one complex
    with the same PDB entry, or with a ligand of the same canonical SMILES, else empty).
    """
    by_entry = {entry: name for name, entry in trained.entries.items() if entry}
    by_ligand = {smiles: name for name, smiles in trained.ligands.items()}
    for name, found in nearest(tested.chains, trained.chains):
        tested.rows[name] |= {
            "nearest": found.name, "identity": round(found.identity, 3),
            "same_pdb": by_entry.get(tested.entries[name], ""), "same_ligand": by_ligand.get(tested.ligands[name], ""),
        }  # fmt: skip
    rows = {name: tested.rows[name] for name in tested.chains}
    top = max(rows, key=lambda name: rows[name]["identity"])
    similar, entries, ligands = (
        sum(map(bool, column)) for column in (
            [row["identity"] >= SIMILAR for row in rows.values()], [row["same_pdb"] for row in rows.values()],
            [row["same_ligand"] for row in rows.values()],
        )
    )  # fmt: skip
    return (
        f"{len(rows)} complexes against {len(trained.chains)}: {similar} have a chain with {SIMILAR:.0%} identity or "
        f"more, {entries} the same PDB entry, {ligands} the same ligand; highest identity {rows[top]['identity']:.1%} "
        f"({top} to {rows[top]['nearest'] or 'none'})"
    )


def pdb_entry(source: Source) -> str:
    """PDB entry of a complex: as its table says, else what looks like one in its name; "" where nothing does."""
    match = ENTRY.search(source.name)
    return (source.pdb or (match[1] if match else "")).lower()


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV, with the columns of all of them."""
    kept = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in kept for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(kept)
    return text.getvalue()


def _facts(source: Source, prepared: Prepared | str, cached: bool) -> tuple[Row, list[str], str]:
    """Row of a complex, its chains and its ligand's SMILES."""
    row: Row = {
        "id": source.name, "split": source.split, "unseen": int(source.unseen), "cluster": source.cluster,
    }  # fmt: skip
    if isinstance(prepared, str):
        return row | {"used": 0, "reason": prepared}, [], ""
    each = prepared.complex
    return row | {"used": 1, "reason": "", **_sizes(each), "conformers": len(prepared.conformers),
                  "cached": int(cached), "notes": " | ".join(_notes(each))}, \
        list(each.receptor.protein.chain_sequences().values()), each.ligand.smiles  # fmt: skip


def _sizes(each: Complex) -> Row:
    protein, ligand = each.receptor.protein, each.graph["ligand"]
    deviation = (ligand.matched - ligand.crystal).square().sum(1).mean().sqrt()
    return {
        "residues": protein.n_residues, "chains": len(set(protein.chains)), "protein_atoms": protein.n_atoms,
        "ligand_atoms": each.ligand.n_atoms, "rotatable_bonds": each.graph[TORSION].edge_index.shape[1],
        "match_rmsd": round(float(deviation), 3),
    }  # fmt: skip


def _notes(each: Complex) -> Iterator[str]:
    yield from (f"protein: {note}" for note in each.receptor.protein.notes)
    yield from (f"ligand: {note}" for note in each.ligand.notes)
