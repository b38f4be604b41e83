"""From flags or a table to jobs: every row comes out once, with an id of its own, whatever is wrong with the others."""

import gzip
import hashlib
import logging
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import RequestError
from domains.docking.dock.jobs import Failure, Job, jobs_of_ligands, jobs_of_table
from domains.docking.request import Site
from domains.docking.write import FolderNames, folder_name
from tests.support import DOCKING_DATA

PROTEIN, LIGAND = DOCKING_DATA / "6w70_protein.pdb.gz", DOCKING_DATA / "6w70_ligand.sdf"
HEADING = "complex_name,protein_path,ligand_description,protein_sequence\n"
SHORT = "id,protein,ligand"
Jobs = list[Job | Failure]
Read = Callable[..., Jobs]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Jobs of a table with this content."""

    def read_(content: str | bytes, site: Site = Site()) -> Jobs:
        path = tmp_path / "table.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return list(jobs_of_table(path, site=site))

    return read_


def only(jobs: Jobs) -> Job | Failure:
    (each,) = jobs
    return each


def job(jobs: Jobs) -> Job:
    each = only(jobs)
    assert isinstance(each, Job), each
    return each


def good(jobs: Jobs) -> list[Job]:
    """The jobs themselves, where none of them failed."""
    found = [each for each in jobs if isinstance(each, Job)]
    assert len(found) == len(jobs), jobs
    return found


def failure(jobs: Jobs) -> Failure:
    each = only(jobs)
    assert isinstance(each, Failure), each
    return each


# ---- tables as they come --------------------------------------------------------------------------------------------

FOUR = [("one", "a.pdb", "CCO"), ("two", "b.pdb", "c1ccccc1")]
TABLES = {
    "DiffDock's": HEADING + "one,a.pdb,CCO,\ntwo,b.pdb,c1ccccc1,MKV\n",
    "short headings": "id,protein,ligand\none,a.pdb,CCO\ntwo,b.pdb,c1ccccc1\n",
    "name": "name,protein,ligand\none,a.pdb,CCO\ntwo,b.pdb,c1ccccc1\n",
    "other order": "ligand_description,complex_name,protein_path\nCCO,one,a.pdb\nc1ccccc1,two,b.pdb\n",
    "capitals and spaces": "Complex Name, Protein Path ,LIGAND_DESCRIPTION\none , a.pdb, CCO\ntwo,b.pdb,c1ccccc1\n",
    "semicolons": "id;protein;ligand\none;a.pdb;CCO\ntwo;b.pdb;c1ccccc1\n",
    "tabs": "id\tprotein\tligand\none\ta.pdb\tCCO\ntwo\tb.pdb\tc1ccccc1\n",
    "byte order mark, CRLF": "\ufeff" + HEADING.replace("\n", "\r\n") + "one,a.pdb,CCO,\r\ntwo,b.pdb,c1ccccc1,\r\n",
    "CR": HEADING.replace("\n", "\r") + "one,a.pdb,CCO,\rtwo,b.pdb,c1ccccc1,\r",
    "no end of line": f"{SHORT}\none,a.pdb,CCO\ntwo,b.pdb,c1ccccc1",
    "quotes": '"id","protein","ligand"\n"one","a.pdb","CCO"\n"two",b.pdb,"c1ccccc1"\n',
    "blank lines and fields": f"\n{SHORT}\n\none,a.pdb,CCO\n,,\n   \ntwo,b.pdb,c1ccccc1,,,\n\n",
    "pandas": ",complex_name,protein_path,ligand_description,protein_sequence\n"
    "0,one,a.pdb,CCO,nan\n1,two,b.pdb,c1ccccc1,NaN\n",
    "short rows": HEADING + "one,a.pdb,CCO\ntwo,b.pdb,c1ccccc1\n",
    "UTF-16": (HEADING + "one,a.pdb,CCO,\ntwo,b.pdb,c1ccccc1,\n").encode("utf-16"),
    "gzip": gzip.compress((HEADING + "one,a.pdb,CCO,\ntwo,b.pdb,c1ccccc1,\n").encode()),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_is_read_whatever_its_dialect(kind: str, read: Read) -> None:
    jobs = read(TABLES[kind])
    assert [(each.id, str(each.protein), each.source) for each in jobs if isinstance(each, Job)] == FOUR
    assert len(jobs) == 2


def test_rows_are_lines_of_the_file(read: Read) -> None:
    rows = [each.row for each in read(f"{SHORT}\n\na,p.pdb,CCO\n\nb,p.pdb,broken-\nc,p.pdb,CCN\n")]
    assert rows == [3, 5, 6]


def test_columns_that_are_not_used_are_named_once(read: Read, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "disco"):
        read("id,protein,ligand,affinity,comment\na,p.pdb,CCO,7.1,x\nb,p.pdb,CCO,7,y\n")
    assert [record.message.split(": ")[-1] for record in caplog.records] == ["affinity, comment"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        (
            "complex_name,protein,smiles\na,b,c\n",
            r"Not found: ligand \(ligand_description or ligand\).*complex_name",
        ),
        ("a.pdb,CCO\nb.pdb,CCN\n", r"must name the columns.*It has: a\.pdb, cco"),
        ("protein,ligand,ligand\na,b,c\n", "two columns 'ligand'"),
        ("<!DOCTYPE html><html>", "HTML"),
        (b"PK\x03\x04 a spreadsheet", "archive"),
        (b"\x00\x01\x02protein,ligand\n", "binary"),
        (gzip.compress(HEADING.encode() * 9, mtime=0)[:12], "gzip file is damaged"),
        (b"\x1f\x8b no gzip at all", "gzip file is damaged"),
    ],
)
def test_what_is_no_table_is_refused_at_the_call(content: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(RequestError, match=message) as error:
        jobs_of_table(path)
    assert str(path) in str(error.value)


def test_a_missing_table_and_a_folder_are_refused_at_the_call(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such file"):
        jobs_of_table(tmp_path / "none.csv")
    with pytest.raises(RequestError, match="folder"):
        jobs_of_table(tmp_path)


# ---- rows that cannot be used ---------------------------------------------------------------------------------------

BAD_ROWS = {
    "no ligand": ("a,p.pdb,", "a", "table", "gives no ligand"),
    "no protein": ("a,,CCO", "a", "table", "gives no protein"),
    "nothing but a name": ("a", "a", "table", "gives no protein and no ligand"),
    "too many fields": ("a,p.pdb,CCO,|f:1,2|", "row_3", "table", r"has 5 fields, the heading 3.*quotes.*p\.pdb,CCO"),
    "open quote": ('a,"p.pdb,CCO', "row_3", "table", r"cannot be read.*p\.pdb,CCO"),
    "text after a quote": ('a,"p.pdb"x,CCO', "row_3", "table", "cannot be read"),
    "huge field": ("a,p.pdb," + "C" * 200_000, "row_3", "table", "cannot be read"),
    "missing file": ("a,p.pdb,none.sdf", "a", "ligand", r"none\.sdf: no such file"),
    "no SMILES": (",p.pdb,not-a-molecule", "p_ligand-848798e7", "ligand", "'not-a-molecule' is neither"),
    "impossible molecule": (",p.pdb,[H][H]", None, "ligand", "no heavy atoms"),
    "empty ligand file": ("a,p.pdb,empty.sdf", "a", "ligand", r"empty\.sdf: is empty"),
    "folder": ("a,p.pdb,folder", "a", "ligand", "a folder"),
    "NUL far down": ("a," + " " * 9000 + "p.pdb,C\0C", "a", "ligand", "neither"),
    "binary": ("a,p.pdb,\x01\x02\x7f", "a", "ligand", "neither"),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_bad_row_is_named_and_the_others_go_on(kind: str, read: Read, tmp_path: Path) -> None:
    line, name, stage, reason = BAD_ROWS[kind]
    (tmp_path / "empty.sdf").touch()
    (tmp_path / "folder").mkdir()
    first, bad, last = read(f"{SHORT}\nfirst,p.pdb,CCO\n{line}\nlast,p.pdb,CCO\n")
    assert (first.id, last.id) == ("first", "last")
    assert isinstance(first, Job)
    assert isinstance(last, Job)
    assert isinstance(bad, Failure)
    assert (bad.stage, bad.row) == (stage, 3)
    assert name is None or bad.id == name
    assert re.search(reason, bad.reason), bad.reason


def test_a_sequence_alone_says_that_structures_are_not_predicted(read: Read) -> None:
    bad = failure(read(HEADING + "a,,CCO,MKVLAA\n"))
    assert (bad.id, bad.stage, bad.ligand) == ("a", "table", "CCO")
    assert "not predicted here: give protein_path" in bad.reason
    assert job(read(HEADING + "a,p.pdb,CCO,MKVLAA\n")).protein == Path("p.pdb")


def test_a_table_cut_short_gives_what_was_whole(read: Read) -> None:
    names = (hashlib.sha256(bytes([k])).hexdigest() for k in range(200))
    packed = gzip.compress("".join([HEADING, *(f"{name},p.pdb,C,\n" for name in names)]).encode())
    *whole, last, end = read(packed[:-2000])
    assert len(good(whole)) > 50
    assert last.row == len(whole) + 2
    assert isinstance(end, Failure)
    assert (end.stage, end.row) == ("table", last.row + 1)
    assert "the table ends here" in end.reason
    assert "damaged or was cut short" in end.reason


# ---- ids ------------------------------------------------------------------------------------------------------------


def test_a_complex_without_a_name_is_called_after_its_protein_and_ligand(read: Read) -> None:
    jobs = read(f"protein,ligand\nx/1abc.pdb,CCO ethanol\n1abc.cif.gz,CCO\n1abc/protein.pdb,{LIGAND}\n")
    digest = hashlib.sha256(b"CCO").hexdigest()[:8]
    assert [each.id for each in jobs] == ["1abc_ethanol", f"1abc_ligand-{digest}", "1abc_GG2"]


def test_the_name_of_a_smiles_depends_on_no_other_row(read: Read) -> None:
    lines = [f"p.pdb,{'C' * size}O" for size in range(1, 6)]
    tables = ("\n".join(["protein,ligand", *order]) for order in (lines, lines[::-1]))
    forward, backward = ({each.source: each.id for each in good(read(table))} for table in tables)
    assert forward == backward
    assert len(set(forward.values())) == 5
    (flag,) = jobs_of_ligands(Path("p.pdb"), " CO ")
    assert flag.id == forward["CO"]


def test_every_record_of_a_ligand_file_is_a_job(read: Read, tmp_path: Path) -> None:
    (tmp_path / "many.smi").write_text("CCO ethanol\nnot-a-molecule broken\nCCN ethanol\nCCC\n")
    jobs = read(f"{SHORT}\nmine,p.pdb,many.smi\n,q.pdb,many.smi\nalone,p.pdb,CCO x\n")
    names = ["ethanol", "broken", "ethanol_2", "many_4"]
    assert [each.id for each in jobs] == [f"{head}_{name}" for head in ("mine", "q") for name in names] + ["alone"]
    assert [each.row for each in jobs] == [2] * 4 + [3] * 4 + [4]
    assert [type(each) for each in jobs[:4]] == [Job, Failure, Job, Job]
    assert isinstance(jobs[1], Failure)
    assert "record 2 (broken): cannot parse SMILES" in jobs[1].reason


def test_duplicate_names_get_numbers_and_the_log_says_so(read: Read, caplog: pytest.LogCaptureFixture) -> None:
    jobs = read(f"{SHORT}\na,p.pdb,CCO\na,p.pdb,CCN\nA,p.pdb,broken-\na_2,p.pdb,CCC\n,p.pdb,CCO\n,p.pdb,CCO\n")
    nameless = jobs[4].id
    assert [each.id for each in jobs] == ["a", "a_2", "A_3", "a_2_2", nameless, f"{nameless}_2"]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 4
    assert "row 3: the name 'a' is taken; its folder is a_2" in caplog.text


def test_the_log_is_not_flooded(read: Read, caplog: pytest.LogCaptureFixture) -> None:
    jobs = read(f"{SHORT}\n" + "a,p.pdb,CCO\n" * 50)
    assert len({each.id for each in jobs}) == 50
    assert len(caplog.records) == 21
    assert "more names were changed" in caplog.records[-1].message


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("../../etc/passwd", "etc_passwd"),
        ("/absolute", "absolute"),
        ("..\\..\\windows", "windows"),
        (".hidden", "hidden"),
        ("-rf", "rf"),
        ("a b/c:d*e?", "a_b_c_d_e"),
        ("..", "complex"),
        ("CON", "complex_CON"),
        ("lpt1.txt", "complex_lpt1.txt"),
        ("proteins", "proteins_2"),
        ("Config.YAML", "Config.YAML_2"),
        ("summary.csv", "summary.csv_2"),
        ("failures.csv", "failures.csv_2"),
        ("report.html", "report.html_2"),
        ("蛋白 Ω é", "蛋白_Ω_é"),
        ("e\u0301", "é"),
        ("x" * 300, "x" * 80),
    ],
)
def test_names_become_safe_folders(name: str, folder: str, read: Read, caplog: pytest.LogCaptureFixture) -> None:
    assert job(read(f"{SHORT}\n{name},p.pdb,CCO\n")).id == folder
    assert f"its folder is {folder}" in caplog.text


def test_no_name_is_longer_than_a_file_system_takes() -> None:
    assert len(folder_name("\U00020000" * 300).encode()) <= 200
    names = FolderNames()
    assert {len(names.take("y" * 300)) for _ in range(10)} == {80, 82, 83}


# ---- paths and pockets ----------------------------------------------------------------------------------------------


def test_paths_start_at_the_working_directory_else_at_the_table(
    read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for folder, smiles in ((tmp_path, "CCO"), (here, "CCN")):
        (folder / "both.smi").write_text(smiles)
        (folder / "both.pdb").touch()
    (tmp_path / "beside.smi").write_text("CCC")
    (tmp_path / "beside.pdb").touch()
    line = "both.pdb,both.smi\nbeside.pdb,beside.smi\nnone.pdb,C/C=C/C\n"
    both, beside, neither = read(f"protein,ligand\n{line}")
    assert [str(each.protein) for each in (both, beside, neither)] == [
        "both.pdb", str(tmp_path / "beside.pdb"), "none.pdb",
    ]  # fmt: skip
    assert isinstance(both, Job)
    assert isinstance(beside, Job)
    assert isinstance(neither, Job)
    assert [each.ligand.smiles for each in (both, beside, neither)] == ["CCN", "CCC", "C/C=C/C"]
    assert beside.source == "beside.smi"


def test_a_row_may_say_where_to_dock(read: Read, tmp_path: Path) -> None:
    heading = "protein,ligand,pocket,center_x,center_y,center_z,size_x,size_y,size_z,radius,margin"
    (tmp_path / "ref.sdf").touch()
    rows = ["p,C", "p,CC,ref.sdf", "p,CCC,,1,2,3,20,21,22", "p,CO,,1,2,-3,,,,9", "p,CN,,,,,,,,,4"]
    general = Site(center=(9, 9, 9), radius=5)
    jobs = read("\n".join([heading, *rows]), site=general)
    assert [each.site for each in jobs if isinstance(each, Job)] == [
        general,
        Site(pocket=tmp_path / "ref.sdf"),
        Site(center=(1, 2, 3), size=(20, 21, 22)),
        Site(center=(1, 2, -3), radius=9),
        Site(center=(9, 9, 9), radius=5, margin=4),
    ]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (",1,2,,,,,5,", "center: give three numbers.*the row gives.*center 1,2,"),
        (",1,2,3,,,,,", "either a radius or a size"),
        (",,,,,,,5,", "need a center"),
        ("x.sdf,1,2,3,,,,5,", "a reference ligand, or a center"),
        (",1,2,3,,,,wide,", "radius.*number.*radius wide"),
        (",1,2,3,,,,-1,", "radius"),
        (",1,2,inf,,,,5,", "center"),
        ("x.sdf,,,,,,,,0", "margin"),
    ],
)
def test_wrong_pockets_of_a_row_are_named(fields: str, reason: str, read: Read) -> None:
    heading = "id,protein,ligand,pocket,center_x,center_y,center_z,size_x,size_y,size_z,radius,margin"
    bad, good = read(f"{heading}\na,p.pdb,CCO,{fields}\nb,p.pdb,CCO\n")
    assert isinstance(bad, Failure)
    assert isinstance(good, Job)
    assert bad.stage == "pocket"
    assert re.search(reason, bad.reason), bad.reason


def test_a_row_may_have_a_template(read: Read, tmp_path: Path) -> None:
    (tmp_path / "a.pdbqt").write_text((DOCKING_DATA / "alanine_anilide.pdbqt").read_text())
    good, none, wrong = read(
        "protein,ligand,template\np,a.pdbqt,C[C@H]([NH3+])C(=O)Nc1ccccc1\np,a.pdbqt,\np,a.pdbqt,CCO\n"
    )
    assert isinstance(good, Job)
    assert good.ligand.smiles == "C[C@H]([NH3+])C(=O)Nc1ccccc1"
    assert isinstance(none, Failure)
    assert "give the SMILES of the ligand as template" in none.reason
    assert isinstance(wrong, Failure)
    assert "does not fit" in wrong.reason
    assert len({good.id, none.id, wrong.id}) == 3


# ---- flags ----------------------------------------------------------------------------------------------------------


def test_flags_give_one_job_per_record(tmp_path: Path) -> None:
    many = tmp_path / "many.smi"
    many.write_text("CCO ethanol\nbroken- bad\nCCN\n")
    site = Site(center=(1, 2, 3), radius=8)
    jobs = list(jobs_of_ligands(PROTEIN, str(many), site=site))
    assert [(each.id, each.row) for each in jobs] == [
        ("6w70_protein_ethanol", 1), ("6w70_protein_bad", 2), ("6w70_protein_many_3", 3)
    ]  # fmt: skip
    assert isinstance(jobs[0], Job)
    assert jobs[0].site is site
    assert next(each.id for each in jobs_of_ligands(PROTEIN, str(many), name="mine")) == "mine_ethanol"
    assert job(list(jobs_of_ligands(PROTEIN, "CCO", name="mine"))).id == "mine"
    assert job(list(jobs_of_ligands(PROTEIN, str(LIGAND)))).id == "6w70_protein_GG2"


def test_a_source_that_is_nothing_is_refused_at_the_call() -> None:
    with pytest.raises(RequestError, match="neither an existing file nor a SMILES"):
        jobs_of_ligands(PROTEIN, "this is nothing")
    with pytest.raises(RequestError, match="no such file"):
        jobs_of_ligands(PROTEIN, "none.sdf")
    with pytest.raises(RequestError, match="the ligand is empty"):
        jobs_of_ligands(PROTEIN, " ")


def test_a_file_with_a_heading_only_says_that_it_is_empty(tmp_path: Path) -> None:
    (tmp_path / "none.smi").write_text("smiles name\n")
    bad = failure(list(jobs_of_ligands(PROTEIN, str(tmp_path / "none.smi"))))
    assert (bad.stage, bad.row, bad.id) == ("ligand", 1, "6w70_protein_none")
    assert "has no ligand record" in bad.reason


# ---- size -----------------------------------------------------------------------------------------------------------


def test_rows_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"{SHORT}\n" + "".join(f"name-of-a-row-{k},p.pdb,CCO,\n" for k in range(100_000)))
    tracemalloc.start()
    try:
        jobs = jobs_of_table(path)
        for _ in range(50):
            next(jobs)
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size / 2
    finally:
        tracemalloc.stop()
