"""Ligand files: what is none, coordinates alone, names."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDepictor

from core.errors import RequestError
from domains.docking.chemistry.files import file_stem
from domains.docking.chemistry.ligand import read_coordinates, read_ligand, read_ligands
from tests.ligand_support import BLOCK, DATA, FORMATS
from tests.protein_support import REAL_PROTEIN, as_cif, real_text

Write = Callable[[str, str | bytes], Path]


# Files that are no ligand files

NO_FILES: dict[str, tuple[str, str | bytes, str]] = {
    "html": ("a.sdf", "<!DOCTYPE html><html>404</html>", "HTML"),
    "empty": ("a.sdf", "", "is empty"),
    "blank": ("a.smi", " \n\n", "is empty"),
    "binary": ("a.mol2", bytes(range(256)), "binary"),
    "zip": ("a.sdf", b"PK\x03\x04 and so on", "archive"),
    "gzip of little": ("a.sdf.gz", gzip.compress(BLOCK.encode())[:15], "damaged or was cut short"),
    "gzip of nothing": ("a.sdf.gz", gzip.compress(b""), "is empty"),
    "prose": ("a.txt", "This is not chemistry.", "no known ligand format"),
    "table": ("a.csv", "id,affinity\n1,2\n", "no known ligand format"),
    "cif": ("a.cif", "data_LIG\nloop_\n", "CIF"),
    "json": ("a.sdf", '{"detail": "not found"}', "JSON"),
    "protein": ("a.pdb", real_text(), "looks like a protein, not a ligand; .* as template"),
    "protein with a long header": (
        "a.pdb",
        "SEQRES   1 A  126  SER VAL\n" * 1000 + real_text(),
        "looks like a protein",
    ),
    "protein as cif": ("a.cif", as_cif(real_text()), "looks like a protein"),
    "pdb without template": ("a.pdb", "HETATM    1  C   LIG A   1       0.000   0.000   0.000", "no bond orders"),
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_a_file_of_no_ligands_is_refused_with_its_name_and_the_reason(kind: str, write: Write) -> None:
    name, content, reason = NO_FILES[kind]
    with pytest.raises(RequestError, match=f"(?s){name}.*{reason}"):
        read_ligands(write(name, content))


def test_sources_that_are_no_files(tmp_path: Path, write: Write) -> None:
    for source, reason in ((tmp_path / "no.sdf", "no such file"), (str(tmp_path), "a folder"), ("xyz!", "neither")):
        with pytest.raises(RequestError, match=reason):
            read_ligands(source)
    with pytest.raises(RequestError, match="not a SMILES"):
        read_ligands(write("a.sdf", BLOCK), "((")
    with pytest.raises(RequestError, match="needs 3-D input"):
        read_ligands(write("a.smi", "CCO"), "CCO")


# Coordinates alone


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if "smiles" not in kind])
def test_coordinates_need_no_template(kind: str, write: Write) -> None:
    name, content, _ = FORMATS[kind]
    places = read_coordinates(write(name, content()))
    expected = read_ligand(DATA / "alanine_anilide.sdf").coordinates
    assert expected is not None
    assert (places.shape, places.dtype) == ((12, 3), np.float64)
    # The order of atoms is that of the file.
    distances = np.linalg.norm(places[:, None] - expected, axis=-1)
    np.testing.assert_array_less(distances.min(0), 3e-3)


def test_coordinates_of_impossible_chemistry(write: Write) -> None:
    """A reference ligand only says where it is."""
    mol = Chem.RWMol(Chem.MolFromSmiles("CC(C)(C)(C)(C)C", sanitize=False))
    places = np.random.default_rng(0).normal(size=(7, 3)).round(4)
    mol.AddConformer(Chem.Conformer(7))
    mol.GetConformer().SetPositions(places)
    mol.GetConformer().Set3D(True)
    path = write("a.sdf", Chem.MolToMolBlock(mol, kekulize=False) + "$$$$\n" + BLOCK)
    np.testing.assert_allclose(read_coordinates(path), places)


def test_files_without_coordinates_say_so(tmp_path: Path, write: Write) -> None:
    flat = Chem.MolFromSmiles("CCO")
    rdDepictor.Compute2DCoords(flat)
    cases = {
        "has no 3-D coordinates": write("flat.sdf", Chem.MolToMolBlock(flat)),
        "no 3-D coordinates of heavy": write("list.smi", "CCO\n"),
        "looks like a protein": REAL_PROTEIN,
        "no 'M  END'": write("cut.sdf", BLOCK[:300] + "\n$$$$\n"),
        "No such file": tmp_path / "none.sdf",
        "Is a directory": tmp_path,
        "is empty": write("empty.sdf", ""),
    }
    for reason, path in cases.items():
        with pytest.raises(RequestError, match=reason) as caught:
            read_coordinates(path)
        assert str(caught.value).count(str(path)) == 1


# Names of files


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("/data/6w70_protein.pdb", "6w70_protein"),
        ("/data/6w70_protein.pdb.gz", "6w70_protein"),
        ("/data/6w70/protein.pdb", "6w70"),
        ("/data/6w70/Ligand.SDF.GZ", "6w70"),
        ("6w70/receptor.cif", "6w70"),
        ("/protein.pdb", "protein"),
        ("/data/a.b.sdf", "a.b"),
        ("/data/.gz", ".gz"),
        ("/data/noending", "noending"),
    ],
)
def test_file_stems(path: str, stem: str) -> None:
    assert file_stem(path) == file_stem(Path(path)) == stem


def test_a_file_called_ligand_gives_the_name_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "6w70").mkdir()
    (tmp_path / "6w70" / "ligand.smi").write_text("CC\nCCC\n")
    found = read_ligands(tmp_path / "6w70" / "ligand.smi")
    assert [one.name for one in found] == ["6w70", "6w70_2"]
