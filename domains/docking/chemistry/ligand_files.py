"""Ligand files cut into records: SDF and MOL (V2000, V3000), MOL2, PDB and PDBQT, SMILES and InChI lists, also gzipped.

The content decides what a file is; its name only where the content cannot tell.
"""

import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

from rdkit import Chem

from core.errors import RequestError
from domains.docking.chemistry.files import SNIFFED_BYTES, check_content

KNOWN_ENDINGS = (".sdf", ".sd", ".mol", ".mdl", ".mol2", ".smi", ".smiles", ".pdb", ".ent", ".pdbqt", ".cif", ".gz")
INCHI = "InChI="
PROTEIN_RESIDUES = 20  # more C-alphas than a peptide to be docked has
AUTODOCK_TYPES = {"A": "C", "HD": "H", "HS": "H", "NA": "N", "NS": "N", "OA": "O", "OS": "O", "SA": "S"}

Parsed = tuple[Chem.Mol, list[str]]  # unsanitised molecule, notes


@dataclass(frozen=True)
class Record:
    """``title`` as in the file, perhaps empty; ``parse`` gives the unsanitised molecule or raises RequestError."""

    title: str
    parse: Callable[[], Parsed]


def file_records(path: Path) -> tuple[str, Iterator[Record]]:
    """Format of a file, found now, and its records, which are read later.

    The format is sdf, mol2, smiles (or InChI), pdb, or protein for a PDB file that looks like one.
    Raises RequestError for a file that cannot be read or is in no known format.
    """
    try:
        with path.open("rb") as stream:
            zipped = stream.read(2) == b"\x1f\x8b"
        with _open(path, zipped) as file:
            head = _head(file, path)
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror or error}") from error
    kind = _format(head, path)
    encoding = "utf-8" if _is_utf8(head) else "latin-1"
    return kind, _read_records(path, zipped, kind, encoding)


def _open(path: Path, zipped: bool) -> BufferedIOBase:
    return gzip.open(path, "rb") if zipped else path.open("rb")


def _head(file: BufferedIOBase, path: Path) -> bytes:
    """First bytes of the (unpacked) file; of a damaged gzip file as many as there are."""
    head = b""
    try:
        while len(head) < SNIFFED_BYTES and (more := file.read(1024)):
            head += more
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        if not head:
            raise RequestError(f"{path}: the gzip file is damaged or was cut short ({error})") from error
    return head


def _is_utf8(head: bytes) -> bool:
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return (
            error.end == len(head) and error.reason == "unexpected end of data"
        )  # a character cut by the end of the head
    return True


def _format(head: bytes, path: Path) -> str:
    check_content(head, path, "a molecule")
    text = head.removeprefix(b"\xef\xbb\xbf").decode("latin-1").replace("\r\n", "\n").replace("\r", "\n")
    start = text.lstrip()
    ending = Path(path.name.removesuffix(".gz")).suffix.lower()
    if re.match(r"data_\S", start):
        protein = "looks like a protein, not a ligand" if re.search(r"^_entity_poly|^_atom_site\.", text, re.M) else ""
        raise RequestError(f"{path}: {protein or 'is a CIF file; convert the ligand to SDF'}")
    if "@<TRIPOS>MOLECULE" in text:
        return "mol2"
    if re.search(r"V[23]000[ \t]*$|^M  END|^\$\$\$\$", text, re.MULTILINE):
        return "sdf"
    if _looks_like_protein(text):
        return "protein"
    if re.search(r"^(ATOM  |HETATM)", text, re.MULTILINE):
        return "pdb"
    by_name = {".sdf": "sdf", ".sd": "sdf", ".mol": "sdf", ".mdl": "sdf", ".smi": "smiles", ".smiles": "smiles"}
    if ending in by_name:
        return by_name[ending]
    first = next((line for line in start.splitlines() if not _is_heading(line)), "")
    if first and (first.startswith(INCHI) or Chem.MolFromSmiles(first.split()[0], sanitize=False) is not None):
        return "smiles"
    raise RequestError(f"{path}: is in no known ligand format (SDF, MOL, MOL2, PDB, SMILES, InChI)")


def _looks_like_protein(text: str) -> bool:
    """A PDB file with a sequence (before its atoms) or with many C-alphas."""
    traces = re.findall(r"^ATOM  .{6} CA ", text, re.MULTILINE)
    return len(traces) > PROTEIN_RESIDUES or re.search(r"^SEQRES +1 ", text, re.MULTILINE) is not None


def _read_records(path: Path, zipped: bool, kind: str, encoding: str) -> Iterator[Record]:
    splitters = {"sdf": _sdf_records, "mol2": _mol2_records, "smiles": _smiles_records}
    with _open(path, zipped) as file:
        rows = (row for line in file for row in line.removesuffix(b"\n").removesuffix(b"\r").split(b"\r"))
        lines = (row.decode(encoding, "replace") for row in rows)
        try:
            yield from splitters.get(kind, _pdb_records)(line.removeprefix("\ufeff") for line in lines)
        except (EOFError, zlib.error, OSError) as error:
            yield _broken(f"the file is damaged or was cut short: {error}")


def _broken(reason: str, title: str = "") -> Record:
    def parse() -> Parsed:
        raise RequestError(reason)

    return Record(title, parse)


def _sdf_records(lines: Iterator[str]) -> Iterator[Record]:
    block: list[str] = []
    for line in lines:
        if line.startswith("$$$$"):
            yield _sdf_record(block)
            block = []
        else:
            block.append(line)
    if any(line.strip() for line in block):
        yield _sdf_record(block)


def _sdf_record(block: list[str]) -> Record:
    text = "\n".join(block)
    end = text.find("\nM  END")
    table = text if end < 0 else text[: end + 7]

    def parse() -> Parsed:
        if end < 0:
            raise RequestError("there is no 'M  END' line: the record is cut short or is not a MOL block")
        mol = Chem.MolFromMolBlock(table + "\n", sanitize=False, removeHs=False)
        if mol is not None:
            return mol, []
        mol = Chem.MolFromMolBlock(table + "\n", sanitize=False, removeHs=False, strictParsing=False)
        if mol is None:
            raise RequestError(
                "the atom or bond lines of the MOL block cannot be read: a number is none, or columns are out of place"
            )
        return mol, ["the MOL block breaks the rules of the format; read leniently"]

    return Record(block[0] if block else "", parse)


def _mol2_records(lines: Iterator[str]) -> Iterator[Record]:
    block: list[str] = []
    for line in lines:
        if line.startswith("@<TRIPOS>MOLECULE") and any(row.startswith("@<TRIPOS>MOLECULE") for row in block[:1]):
            yield _mol2_record(block)
            block = []
        if block or line.startswith("@<TRIPOS>MOLECULE"):
            block.append(line)
    if block:
        yield _mol2_record(block)


def _mol2_record(block: list[str]) -> Record:
    text = "\n".join(block) + "\n"
    title = block[1].strip() if len(block) > 1 else ""

    def parse() -> Parsed:
        for cleanup, note in ((True, []), (False, ["charges and bonds of MOL2 groups are those of the file"])):
            mol = Chem.MolFromMol2Block(text, sanitize=True, removeHs=False, cleanupSubstructures=cleanup)
            if mol is not None:
                return mol, note
        mol = Chem.MolFromMol2Block(text, sanitize=False, removeHs=False)
        if mol is None:
            raise RequestError("the MOL2 record cannot be read (it is cut short, or has unknown atom types)")
        return mol, []

    return Record("" if set(title) <= {"*"} else title, parse)


def _pdb_records(lines: Iterator[str]) -> Iterator[Record]:
    """One record per MODEL; CONECT lines, which follow the last model, hold for all of them."""
    models: list[list[str]] = [[]]
    conect: list[str] = []
    pdbqt = False
    for line in lines:
        pdbqt |= line.startswith(("ROOT", "BRANCH", "TORSDOF"))
        if line.startswith("MODEL") and models[-1]:
            models.append([])
        elif line.startswith("CONECT"):
            conect.append(line)
        elif line.startswith(("ATOM  ", "HETATM")):
            models[-1].append(line)
    for model in models:
        rows = [_with_element(line) for line in model] if pdbqt else model
        yield _pdb_record("\n".join([*rows, *conect, "END", ""]))


def _with_element(line: str) -> str:
    """PDB line of a PDBQT line, which has a charge and AutoDock's atom type where the element is due."""
    kind = line[77:].strip()
    return f"{line[:66]:<76}{AUTODOCK_TYPES.get(kind, kind):>2}"


def _pdb_record(text: str) -> Record:
    def parse() -> Parsed:
        mol = Chem.MolFromPDBBlock(text, sanitize=False, removeHs=False)
        if mol is None:
            raise RequestError("the ATOM or HETATM lines cannot be read")
        return mol, []

    return Record("", parse)


def _is_heading(line: str) -> bool:
    words = line.lower().split()
    return not words or words[0].startswith("#") or words[0].strip('"') in ("smiles", "canonical_smiles", "smi")


def _smiles_records(lines: Iterator[str]) -> Iterator[Record]:
    for line in lines:
        if not _is_heading(line):
            yield _smiles_record(line)


def _smiles_record(line: str) -> Record:
    smiles, _, rest = line.strip().partition(" ") if "\t" not in line else line.strip().partition("\t")
    extension = re.match(r"\s*(\|.*?\|)", rest)  # ChemAxon's extended SMILES
    title = rest[extension.end() :] if extension else rest
    full = f"{smiles} {extension[1]}" if extension else smiles

    def parse() -> Parsed:
        if smiles.startswith(INCHI):
            return _from_inchi(smiles)
        mol = Chem.MolFromSmiles(full, sanitize=False)
        if mol is None:
            raise RequestError(f"cannot parse SMILES {smiles!r}")
        mol.RemoveAllConformers()  # extended SMILES may carry a drawing
        return mol, []

    return Record(title, parse)


def _from_inchi(inchi: str) -> Parsed:
    """Molecule of an InChI. RDKit puts an amide's mobile hydrogen on the oxygen; it is put back on the nitrogen."""
    mol = Chem.MolFromInchi(inchi)  # type: ignore[no-untyped-call]
    if mol is None:
        raise RequestError(f"cannot parse InChI {inchi!r}")
    imidic_acid = Chem.MolFromSmarts("[OX2H1,SX2H1][CX3]=[NX2]")
    for oxygen, carbon, nitrogen in mol.GetSubstructMatches(imidic_acid):
        double = mol.GetBondBetweenAtoms(carbon, nitrogen)
        double.SetStereo(Chem.BondStereo.STEREONONE)
        double.SetBondType(Chem.BondType.SINGLE)
        mol.GetBondBetweenAtoms(oxygen, carbon).SetBondType(Chem.BondType.DOUBLE)
        for index in (oxygen, nitrogen):
            atom = mol.GetAtomWithIdx(index)
            atom.SetNoImplicit(False)
            atom.SetNumExplicitHs(0)
    Chem.SanitizeMol(mol)
    mobile = "(H" in inchi
    return mol, ["an InChI leaves the tautomer open: the one taken may not be the one meant"] if mobile else []


def smiles_source(source: str | Path) -> Record:
    """The record of a SMILES or InChI given as text. Raises RequestError where it is neither, or a missing file."""
    text = str(source)
    if isinstance(source, Path) or text.lower().endswith(KNOWN_ENDINGS):
        raise RequestError(f"{text}: no such file")
    record = _smiles_record(text)
    try:
        record.parse()
    except RequestError as error:
        raise RequestError(f"{text!r} is neither an existing file nor a SMILES or InChI that RDKit reads") from error
    return record
