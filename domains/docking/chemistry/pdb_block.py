"""A protein as it was read, written as the text of a PDB file: for programs that take no arrays."""

import re
import string
from collections.abc import Sequence

from domains.docking.chemistry.protein import Protein

CHAIN_LETTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits


def pdb_block(protein: Protein) -> str:
    """ATOM records of all atoms of the protein, in their order (so also of modified residues), and END.

    Labels that the columns cannot hold are made to fit; the atoms and their places stay. A chain name of several
    letters becomes a letter that no other chain has (with more than 62 chains, one again); serial numbers start again
    after 99999 and residue numbers after 9999, names of residues end after three letters. Places have three decimals,
    two below -1000 Angstrom.
    """
    letters = _chain_letters(protein.chains)
    lines = []
    atoms = zip(protein.residue.tolist(), protein.atom_names, protein.elements, protein.positions.tolist(), strict=True)
    for serial, (residue, atom, element, place) in enumerate(atoms, start=1):
        column = f" {atom:<3}" if len(element) == 1 and len(atom) < 4 else f"{atom:<4}"[:4]
        x, y, z = (f"{value:8.3f}"[:8] for value in place)
        lines.append(
            f"ATOM  {serial % 100_000:5d} {column} {protein.names[residue][:3]:>3} {letters[protein.chains[residue]]}"
            f"{_number(protein.numbers[residue])}   {x}{y}{z}  1.00  0.00          {element.upper():>2}  "
        )
    return "\n".join([*lines, "END", ""])


def _chain_letters(chains: Sequence[str]) -> dict[str, str]:
    """One character for every chain name: the name itself where it has one or none."""
    names = list(dict.fromkeys(chains))
    short = {name: name or " " for name in names if len(name) < 2}
    free = [letter for letter in CHAIN_LETTERS if letter not in short] or list(CHAIN_LETTERS)
    long = [name for name in names if len(name) > 1]
    return short | {name: free[place % len(free)] for place, name in enumerate(long)}


def _number(number: str) -> str:
    """Columns 23-27 for a residue number with or without insertion code."""
    found = re.fullmatch(r"(-?\d+)(.?)", number)
    digits, code = (int(found[1]), found[2]) if found else (0, "")
    return f"{digits if -999 <= digits <= 9999 else digits % 10_000:4d}{code or ' '}"
