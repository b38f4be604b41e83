"""What was understood of a protein file, structured and in sentences."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

NAMED = 6  # how many residues a sentence names


@dataclass(frozen=True)
class ProteinReport:
    """Counts, and labels (``ASP A 52A``) of what was left out, changed or is doubtful.

    format, reader, models: as in ``StructureFile``; residues: how many are in the protein (before a crop).
    waters, ions, hydrogens, duplicates: how many were removed (monomers; atoms for the last two).
    ligands, cofactors, metals, sugars, nucleotides, additives, caps: monomers that are not in the graph.
    incomplete: amino acids left out because N, CA or C is missing.
    alternates: residues with alternate locations, and which was taken; modified: residues taken as their parent;
    variants: those that have a name of their own in the networks' vocabulary (HIE, SEP); unknown: residues in a chain
    without known parent; truncated: residues without some of their side chain; gaps: where a chain is broken;
    renamed: chains that gave a number twice; coincident: residues that lie on another one; pocket: what a crop kept,
    "" without.
    """

    format: str
    reader: str
    models: int
    residues: int
    waters: int = 0
    ions: int = 0
    hydrogens: int = 0
    duplicates: int = 0
    ligands: tuple[str, ...] = ()
    cofactors: tuple[str, ...] = ()
    metals: tuple[str, ...] = ()
    sugars: tuple[str, ...] = ()
    nucleotides: tuple[str, ...] = ()
    additives: tuple[str, ...] = ()
    caps: tuple[str, ...] = ()
    incomplete: tuple[str, ...] = ()
    alternates: tuple[str, ...] = ()
    modified: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    truncated: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()
    renamed: tuple[str, ...] = ()
    coincident: tuple[str, ...] = ()
    pocket: str = ""

    def sentences(self) -> tuple[str, ...]:
        """One sentence for everything that is not as in the plainest of files."""
        counted = {
            "waters": "waters removed",
            "ions": "simple ions (alkali metals, halides) removed",
            "hydrogens": "hydrogens removed",
            "duplicates": "atoms given twice in their residue, of which the first is used",
        }
        said = [f"the file has {self.models} models; only the first is used"] if self.models > 1 else []
        said += [f"{text}: {count}" for name, text in counted.items() if (count := getattr(self, name))]
        said += [f"{SENTENCES[f.name]}: {_some(getattr(self, f.name))}" for f in fields(self) if self._has(f.name)]
        return (*said, self.pocket) if self.pocket else tuple(said)

    def _has(self, name: str) -> bool:
        return name in SENTENCES and bool(getattr(self, name))


SENTENCES = {
    "ligands": "other molecules, not part of the receptor",
    "cofactors": "cofactors, not part of the receptor (the model cannot see them)",
    "metals": "metals, not part of the receptor (the model cannot see them)",
    "sugars": "sugars, not part of the receptor",
    "nucleotides": "nucleic acids, not part of the receptor (the model cannot see them)",
    "additives": "buffer or crystallisation agents, not part of the receptor",
    "caps": "terminal caps, not part of the receptor",
    "incomplete": "amino acids left out because N, CA or C is missing",
    "alternates": "residues with alternate locations",
    "modified": "modified residues, taken as their parent",
    "variants": "variants that the networks know by name, in the sequence as their parent",
    "unknown": "residues of unknown kind, kept in their chain as such",
    "truncated": "residues without some of their side-chain atoms",
    "gaps": "breaks in a chain (missing residues?)",
    "renamed": "chains that give a residue number twice; from there on the chain gets a new name",
    "coincident": "residues that lie on another one (two copies in the file?)",
}


def _some(labels: Sequence[str]) -> str:
    """The first few labels and how many more there are."""
    rest = len(labels) - NAMED
    return ", ".join(labels[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
