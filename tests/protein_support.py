"""Small structure files for the protein tests: a straight peptide with sound bonds, in PDB lines."""

import gzip
from pathlib import Path

import gemmi

REAL_PROTEIN = Path(__file__).parent / "data" / "docking" / "6w70_protein.pdb.gz"
# One residue; the next one lies 3.8 A further along x, so that C and N of neighbours are 1.3 A apart.
PLACES = {
    "N": (0.0, 0.0, 0.0), "CA": (1.2, 0.83, 0.0), "C": (2.5, 0.0, 0.0), "O": (2.5, -1.2, 0.0),
    "CB": (1.2, 1.6, 1.3), "CG": (1.2, 3.0, 1.3), "OG": (0.0, 2.3, 1.5), "SE": (2.4, 3.2, 2.0), "CE": (2.4, 4.9, 2.0),
    "H": (-0.6, -0.8, 0.0), "HA": (1.2, 1.5, -0.9), "P": (0.0, 3.8, 1.5), "OD": (1.0, 3.9, 2.2),
}  # fmt: skip
BACKBONE = ("N", "CA", "C", "O")


def atom_line(
    atom: str, name: str, chain: str, number: str, xyz: tuple[float, float, float], *,
    record: str = "ATOM", alt: str = " ", occupancy: float = 1.0, element: str | None = None,
) -> str:  # fmt: skip
    """One line; ``number`` may end with an insertion code."""
    digits, code = (number, " ") if number[-1].isdigit() else (number[:-1], number[-1])
    symbol = atom[:1] if element is None else element
    x, y, z = xyz
    column = f" {atom:<3}" if len(symbol) < 2 else f"{atom:<4}"
    return (
        f"{record:<6}{1:>5} {column}{alt}{name:>3} {chain:1}{digits:>4}{code}   {x:8.3f}{y:8.3f}{z:8.3f}"
        f"{occupancy:6.2f}{0:6.2f}          {symbol:>2}"
    )


def residue(
    name: str, chain: str, number: str, place: float, atoms: tuple[str, ...] = (*BACKBONE, "CB"), *,
    row: float = 0.0, record: str = "ATOM", alt: str = " ", occupancy: float = 1.0,
) -> str:  # fmt: skip
    """Lines of a residue, the ``place``-th of a straight chain at height z = ``row``."""
    lines = []
    for atom in atoms:
        x, y, z = PLACES[atom]
        xyz = (x + 3.8 * place, y, z + row)
        element = "SE" if atom == "SE" else None
        lines.append(
            atom_line(atom, name, chain, number, xyz, record=record, alt=alt, occupancy=occupancy, element=element)
        )
    return "\n".join(lines) + "\n"


def peptide(names: str = "ALA GLY SER", chain: str = "A", start: int = 1, row: float = 0.0) -> str:
    return "".join(
        residue(name, chain, str(start + k), k, BACKBONE if name == "GLY" else (*BACKBONE, "CB"), row=row)
        for k, name in enumerate(names.split())
    )


def as_cif(pdb: str) -> str:
    """The same as mmCIF, written by gemmi."""
    structure = gemmi.read_pdb_string(pdb)
    structure.setup_entities()
    return structure.make_mmcif_document().as_string()


def real_text() -> str:
    return gzip.decompress(REAL_PROTEIN.read_bytes()).decode()
