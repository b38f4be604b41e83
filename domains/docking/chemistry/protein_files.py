"""Structure files (PDB, mmCIF, plain or gzipped) as atom rows of the first model.

The content decides what a file is; its name only where the content cannot tell. Biopython reads ordinary files. gemmi
reads what Biopython refuses or would lose atoms of: residue numbers given twice, hybrid-36 numbers, chain names of two
letters, missing columns, more than three decimals (Biopython keeps single precision), very large mmCIF files.
"""

import gzip
import io
import re
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
from Bio.PDB.MMCIFParser import MMCIFParser
from Bio.PDB.PDBParser import PDBParser

from core.errors import RequestError
from domains.docking.chemistry.files import check_content
from domains.docking.chemistry.monomers import AtomRow

MAX_BYTES = 1 << 30
MAX_BIOPYTHON_CIF_ATOMS = 50_000  # a matter of seconds
BIOPYTHON_COLUMNS = (
    *("group_PDB", "id", "type_symbol", "label_atom_id", "label_alt_id", "label_comp_id", "auth_asym_id"),
    *("auth_seq_id", "pdbx_PDB_ins_code", "Cartn_x", "Cartn_y", "Cartn_z", "occupancy", "B_iso_or_equiv"),
)
CARTESIAN = [BIOPYTHON_COLUMNS.index(f"Cartn_{axis}") for axis in "xyz"]
# Names of four letters, of which the fourth is written before the chain; other letters there are part of its name.
LONG_NAMES = {
    "HISA", "HISB", "HISD", "HISE", "HISH", "HISP", "HIS1", "HIS2", "CYS2", "CYSH", "ASPH", "GLUH", "LYSH", "LYSN",
    "ARGN", "TIP3", "TIP4",
}  # fmt: skip


@dataclass(frozen=True)
class StructureFile:
    """Atom rows of the first of ``models`` models; ``parents``: standard residue of the modified ones, by name.

    format: "PDB" or "mmCIF"; reader: "Biopython" or "gemmi".
    """

    format: str
    reader: str
    models: int
    rows: tuple[AtomRow, ...]
    parents: dict[str, str]


def read_structure_file(path: str | Path) -> StructureFile:
    """Read a PDB or mmCIF file.

    Raises:
        RequestError: no such file, cannot be unpacked, is no structure file, has no atoms or some without coordinates.
    """
    path = Path(path)
    text = _text(path)
    return _read_cif(path, text) if _is_cif(text, path) else _read_pdb(path, text)


def _text(path: Path) -> str:
    """The (unpacked) content, line ends as "\\n"."""
    try:
        if path.is_dir():
            raise RequestError(f"{path}: a folder; give one PDB or mmCIF file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if content.startswith(b"\x1f\x8b"):
            with gzip.open(path, "rb") as file:
                content = file.read(MAX_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RequestError(f"{path}: the gzip file is damaged or was cut short ({error})") from error
    except FileNotFoundError as error:
        raise RequestError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > MAX_BYTES:
        raise RequestError(f"{path}: is larger than 1 GiB; give the protein alone")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        content = content.decode("utf-16", "replace").encode()
    check_content(content, path, "a PDB or mmCIF file")
    return content.removeprefix(b"\xef\xbb\xbf").decode("latin-1").replace("\r\n", "\n").replace("\r", "\n")


def _is_cif(text: str, path: Path) -> bool:
    if re.search(r"^(ATOM  |HETATM).{24}", text, re.MULTILINE) and not re.search(r"^_atom_site\.", text, re.MULTILINE):
        return False
    if re.search(r"^\s*data_|^_atom_site\.", text, re.MULTILINE | re.IGNORECASE):
        return True
    if re.search(r"V[23]000[ \t]*$|^M  END|^@<TRIPOS>", text, re.MULTILINE):
        raise RequestError(f"{path}: is a ligand file (SDF, MOL or MOL2), not a protein; give PDB or mmCIF")
    if re.search(r"^(HEADER|REMARK|CRYST1|SEQRES|MODEL|TER|END)\b", text, re.MULTILINE):
        return False
    if path.name.lower().removesuffix(".gz").endswith((".pdb", ".ent", ".cif", ".mmcif")):
        raise RequestError(f"{path}: has no atom in it; is it damaged?")
    raise RequestError(f"{path}: is in no known structure format (PDB, mmCIF)")


def _read_pdb(path: Path, text: str) -> StructureFile:
    models, lines = _first_model(text)
    if not lines:
        raise RequestError(f"{path}: has no ATOM or HETATM line")
    for number, line in lines:
        _check_line(path, number, line)
    if all(line[20] == " " or line[17:21] in LONG_NAMES for _, line in lines):  # no chain name has two letters
        lines = [(number, f"{line[:20]} {line[21:]}") for number, line in lines]
    # gemmi puts all atoms of one residue number together; the B-factor column remembers their order.
    numbered = [f"{line[:60]}{place % 1_000_000:6d}{line[66:]}" for place, (_, line) in enumerate(lines)]
    clean = "\n".join([*numbered, "END", ""])
    ordinary = all(line[20] == " " and line[34] == line[42] == line[50] == "." for _, line in lines)
    rows = _by_biopython(clean, cif=False) if ordinary else None
    reader = "Biopython"
    if rows is None or len(rows) != len(lines):
        try:
            reader, rows = "gemmi", _by_gemmi(gemmi.read_pdb_string(clean), in_file_order=True)
        except (ValueError, RuntimeError) as error:
            raise RequestError(f"{path}: the ATOM lines cannot be read: {error}") from error
    modres = (line for line in text.split("\n") if line.startswith("MODRES"))
    return StructureFile(
        "PDB", reader, models, tuple(rows), {line[12:15].strip(): line[24:27].strip() for line in modres}
    )


def _first_model(text: str) -> tuple[int, list[tuple[int, str]]]:
    """Number of models, and number and content of the atom lines of the first.

    Models end with ENDMDL, MODEL or END (trajectories). Lines come 80 columns wide, repaired where that is sure.
    """
    models, begun, lines = 0, False, []
    for number, raw in enumerate(text.split("\n"), start=1):
        if raw.startswith(("ENDMDL", "MODEL ")) or raw.rstrip() in ("END", "MODEL"):
            begun = False
        elif raw.startswith(("ATOM  ", "HETATM")):
            models, begun = models + (not begun), True
            if models > 1:
                continue
            line = raw[:6] + raw[7:] if raw[6:12].isdigit() else raw  # six digits move all other columns
            lines.append((number, f"{line:<80}"))
    return models, lines


def _check_line(path: Path, number: int, line: str) -> None:
    try:
        for start in (30, 38, 46):
            float(line[start : start + 8])
    except ValueError as error:
        where = f"line {number} (residue {' '.join(line[17:27].split())}, atom {line[12:16].strip()})"
        raise RequestError(
            f"{path}: {where}: no coordinates in columns 31-54: {line[30:54]!r}; the line is damaged or cut short"
        ) from error


def _read_cif(path: Path, text: str) -> StructureFile:
    try:
        document = gemmi.cif.read_string(text)
    except (ValueError, RuntimeError) as error:
        raise RequestError(f"{path}: the CIF file is damaged or was cut short: {error}") from error
    block = next((block for block in document if block.find_values("_atom_site.id")), None)
    block = block or next((block for block in document if block.find_values("_atom_site.Cartn_x")), None)
    if block is None:
        content = {"_refln.": "structure factors", "_chem_comp_atom.": "a ligand's definition"}
        found = next((what for start, what in content.items() if start in text), "no structure")
        raise RequestError(f"{path}: the CIF file holds {found}; there is no _atom_site table")
    table = block.find("_atom_site.", list(BIOPYTHON_COLUMNS))
    ordinary = 0 < len(table) <= MAX_BIOPYTHON_CIF_ATOMS and len(document) == 1
    ordinary = ordinary and all(len(row[k].partition(".")[2]) <= 3 for row in table for k in CARTESIAN)
    numbers = block.find_values("_atom_site.pdbx_PDB_model_num")
    models = max(1, len(set(numbers)))
    size = sum(number == numbers[0] for number in numbers) if models > 1 else len(table)
    rows = _by_biopython(text, cif=True) if ordinary else None
    reader = "Biopython"
    if rows is None or len(rows) != size:
        try:
            reader, rows = "gemmi", _by_gemmi(gemmi.make_structure_from_block(block))
        except (ValueError, RuntimeError) as error:
            raise RequestError(f"{path}: the _atom_site table cannot be read: {error}") from error
    if not rows:
        raise RequestError(f"{path}: the _atom_site table has no atoms")
    mods = block.find("_pdbx_struct_mod_residue.", ["label_comp_id", "parent_comp_id"])
    return StructureFile("mmCIF", reader, models, tuple(rows), {row.str(0): row.str(1) for row in mods})


def _by_biopython(text: str, *, cif: bool) -> list[AtomRow] | None:
    """Rows of the first model, None where Biopython finds anything that it cannot keep."""
    kind: Any = MMCIFParser if cif else PDBParser  # Biopython has no types
    parser = kind(QUIET=True) if cif else kind(PERMISSIVE=False, QUIET=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _biopython_rows(parser.get_structure("", io.StringIO(text)))
        except Exception:  # whatever it is, gemmi has a try
            return None


def _biopython_rows(structure: Any) -> list[AtomRow]:
    rows = []
    for chain in next(iter(structure)):
        for residue in chain.get_unpacked_list():
            hetero, number, insertion = residue.id
            chain_name = chain.id.strip() or residue.segid.strip()
            for atom in residue.get_unpacked_list():
                x, y, z = (round(float(value), 3) for value in atom.coord)
                rows.append(
                    AtomRow(
                        chain_name, f"{number}{insertion.strip()}", residue.resname.strip().upper(), hetero != " ",
                        atom.name.strip(), atom.altloc.strip(), atom.occupancy or 0.0, atom.element or "", (x, y, z),
                    )
                )  # fmt: skip
    return rows


def _by_gemmi(structure: gemmi.Structure, *, in_file_order: bool = False) -> list[AtomRow]:
    """Rows of the first model; ``in_file_order``: by the B factors."""
    rows, order = [], []
    for chain in structure[0] if len(structure) else ():
        for residue in chain:
            name, number = residue.name.strip().upper(), str(residue.seqid).strip()
            chain_name = chain.name.strip() or residue.segment.strip()
            for atom in residue:
                x, y, z = atom.pos.tolist()
                order.append(atom.b_iso)
                rows.append(
                    AtomRow(
                        chain_name, number, name, residue.het_flag == "H", atom.name.strip(),
                        atom.altloc.strip("\0 "), atom.occ, atom.element.name, (x, y, z),
                    )
                )  # fmt: skip
    return [rows[k] for k in np.argsort(order, kind="stable")] if in_file_order else rows
