"""Over a hundred odd and hostile inputs through ``disco dock``: each ends in poses or in its own named failure."""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from core import cli
from domains.docking import shipped
from domains.docking.write import folder_name
from tests.docking_hostile_inputs import CASES, DOCKED, HELIX, HTML, LIGANDS, PROTEINS, TABLE, Case
from tests.docking_models import save_model
from tests.protein_support import REAL_PROTEIN, real_text
from tests.support import DOCKING_DATA, disco
from tests.test_files import full_disk

COLUMNS = (
    *("complex_name", "protein_path", "ligand_description", "protein_sequence", "template", "pocket", "radius"),
    *("center_x", "center_y", "center_z"),
)
IDS = {name: case.folder or folder_name(name) for name, case in CASES.items()}
RECORDS = {"ethanol": "CCO", "broken": "not-a-molecule", "unnamed_3": "CCN"}  # of one row with a file of several


@dataclass(frozen=True)
class Run:
    """A table that was docked: what the command printed, and where."""

    out: Path
    code: int
    printed: dict[str, Any]
    log: str

    @property
    def failures(self) -> dict[str, dict[str, Any]]:
        return {each["id"]: each for each in self.printed["failures"]}

    def notes(self, name: str) -> str:
        """Everything that the result of a complex says of its input."""
        record = json.loads((self.out / name / "result.json").read_text())
        return " | ".join([*record["protein"]["notes"], *record["ligand"]["notes"], *record["notes"]])


def fill(folder: Path) -> Path:
    """Write the table with all cases, a folder of files for each."""
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for number, (name, case) in enumerate(CASES.items()):
            place = folder / f"case{number}"
            place.mkdir()
            (place / "folder").mkdir()
            (place / "good.pdb").write_text(HELIX)
            table.writerow({"complex_name": name, **row(place, case)})
        lines = (f"{smiles} {name}\n".replace(" unnamed_3", "") for name, smiles in RECORDS.items())
        (folder / "unnamed.smi").write_text("".join(lines))
        several = {"protein_path": "case0/good.pdb", "ligand_description": "unnamed.smi"}
        table.writerow({"complex_name": "several", **several})
    return folder / "table.csv"


def row(place: Path, case: Case) -> dict[str, str]:
    """Fields of a case, whose files are written; paths are told from text by the files that there are."""
    for name, content in case.files.items():
        data = content() if callable(content) else content
        (place / name).write_bytes(data.encode() if isinstance(data, str) else data)
    shared = {"real.pdb.gz": REAL_PROTEIN, "real.sdf": DOCKING_DATA / "6w70_ligand.sdf"}

    def path(text: str) -> str:
        if text == "good20.pdb":
            (place / text).write_text(real_text())
        known = shared.get(text, place / text)
        return str(known) if text and os.path.exists(known) else text

    more = {key: path(value) if key == "pocket" else value for key, value in case.more.items()}
    return {"protein_path": path(case.protein), "ligand_description": path(case.ligand), **more}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained networks: what is tested here does not depend on their quality."""
    return save_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def docked(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All cases in one table."""
    folder = tmp_path_factory.mktemp("hostile")
    table, out = fill(folder), folder / "deep" / "out"
    options = ("--poses", "1", "--steps", "2", "--workers", "1", "--no-report", "--json", "--device", "cpu")
    done = disco("dock", "--csv", table, "-o", out, "--model", model, *options)
    assert "Traceback" not in done.stderr, done.stderr
    return Run(out, done.returncode, json.loads(done.stdout), done.stderr)


def test_every_row_comes_out_once(docked: Run) -> None:
    found = [each["id"] for each in docked.printed["complexes"] + docked.printed["failures"]]
    assert sorted(found) == sorted([*IDS.values(), *(f"several_{name}" for name in RECORDS)])
    assert docked.code == 3
    assert len(CASES) == len(PROTEINS) + len(LIGANDS) + len(TABLE) == len(set(IDS.values()))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.outcome == DOCKED])
def test_odd_input_is_docked_and_what_is_odd_about_it_is_said(docked: Run, name: str) -> None:
    assert IDS[name] not in docked.failures, docked.failures[IDS[name]]
    assert re.search(CASES[name].says, docked.notes(IDS[name])), docked.notes(IDS[name])
    assert (docked.out / IDS[name] / "rank1.sdf").stat().st_size > 0


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.outcome != DOCKED])
def test_what_cannot_be_docked_says_why(docked: Run, name: str) -> None:
    failure = docked.failures[IDS[name]]
    assert failure["stage"] == CASES[name].outcome, failure
    assert re.search(CASES[name].says, failure["reason"]), failure["reason"]
    assert not (docked.out / IDS[name]).exists()


def test_a_broken_record_of_a_file_loses_only_itself(docked: Run) -> None:
    assert [(docked.out / f"several_{name}").is_dir() for name in RECORDS] == [True, False, True]
    assert "record 2 (broken): cannot parse SMILES" in docked.failures["several_broken"]["reason"]


def test_nothing_is_written_outside_the_folder(docked: Run) -> None:
    assert os.listdir(docked.out.parent) == ["out"]
    beside = {path.name for path in docked.out.parent.parent.iterdir()}
    assert beside == {"deep", "table.csv", "unnamed.smi", *(f"case{number}" for number in range(len(CASES)))}
    assert not Path("/tmp/escape").exists()


def test_failures_are_in_a_table_too(docked: Run) -> None:
    with (docked.out / "failures.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [each["id"] for each in rows] == sorted(docked.failures, key=lambda name: docked.failures[name]["row"])
    assert all(each["reason"] and each["stage"] for each in rows)


# ---- commands that cannot work at all -------------------------------------------------------------------------------

REFUSED: dict[str, tuple[str, str]] = {  # what is typed, and words that the one line of the answer must have
    "no model": (
        "-r {good} -l CCO -o {out}",
        "CheckpointError|no docking model|lacks the weights|--model",
    ),
    "no such model": ("-r {good} -l CCO -o {out} -m {out}/none", "CheckpointError|none"),
    "no such name": ("-r {good} -l CCO -o {out} -m dicso", "CheckpointError|dicso|disco, plain"),
    "nothing": ("-o {out} -m {model}", "--protein and --ligand|--csv"),
    "protein alone": ("-r {good} -o {out} -m {model}", "--ligand is missing"),
    "ligand alone": ("-l CCO -o {out} -m {model}", "--protein is missing"),
    "files and a table": ("-r {good} -l CCO --csv {table} -o {out} -m {model}", "either|--csv"),
    "a name for a table": ("--csv {table} --name x -o {out} -m {model}", "--name|columns"),
    "no such table": ("--csv {out}/none.csv -o {out} -m {model}", "none.csv|no such file"),
    "empty table": ("--csv {empty} -o {out} -m {model}", "empty.csv|is empty"),
    "page as table": ("--csv {html} -o {out} -m {model}", "html.csv|HTML"),
    "folder as table": ("--csv {place} -o {out} -m {model}", "a folder"),
    "table without heading": ("--csv {bare} -o {out} -m {model}", "first line must name the columns|protein_path"),
    "no such ligand": ("-r {good} -l none.sdf -o {out} -m {model}", "none.sdf|no such file"),
    "no SMILES": ("-r {good} -l aspirin -o {out} -m {model}", "aspirin|neither an existing file nor a SMILES"),
    "half a centre": ("-r {good} -l CCO --center_x 1 -o {out} -m {model}", "--center_y|all three"),
    "centre alone": ("-r {good} -l CCO --center 1 2 3 -o {out} -m {model}", "radius or a size"),
    "two pockets": ("-r {good} -l CCO --pocket {good} --center 1 2 3 --radius 5 -o {out} -m {model}", "pocket"),
    "radius below 0": ("-r {good} -l CCO --center 1 2 3 --radius -5 -o {out} -m {model}", "radius"),
    "no poses": ("-r {good} -l CCO --poses 0 -o {out} -m {model}", "poses"),
    "no steps": ("-r {good} -l CCO --steps 0 -o {out} -m {model}", "steps"),
    "unknown sampler": ("-r {good} -l CCO --sampler best -o {out} -m {model}", "sampler|best"),
    "guidance below 0": ("-r {good} -l CCO --guidance -1 -o {out} -m {model}", "guidance"),
    "batch of words": ("-r {good} -l CCO --batch-size many -o {out} -m {model}", "batch_size"),
    "unknown scores": ("-r {good} -l CCO --rescore magic -o {out} -m {model}", "rescore"),
    "no such settings": ("-r {good} -l CCO --config {out}/none.yaml -o {out} -m {model}", "none.yaml|cannot be read"),
    "unknown setting": ("-r {good} -l CCO --config {typo} -o {out} -m {model}", "posses"),
    "unknown override": ("-r {good} -l CCO -o {out} -m {model} sampling.stepps=3", "stepps"),
    "unknown device": ("-r {good} -l CCO --device quantum -o {out} -m {model}", "quantum"),
    "out is a file": ("-r {good} -l CCO -o {empty} -m {model}", "StorageError|empty.csv"),
    "out is below a file": ("-r {good} -l CCO -o {empty}/out -m {model}", "StorageError|empty.csv"),
}


@pytest.fixture
def typed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run ``disco dock`` with a line of options in this process; gives its exit code, output and messages."""
    files = {
        "good": ("good.pdb", HELIX), "empty": ("empty.csv", ""), "html": ("html.csv", HTML),
        "bare": ("bare.csv", "a.pdb,CCO\n"), "typo": ("typo.yaml", "posses: 3\n"),
        "table": ("table.csv", f"protein,ligand\n{tmp_path}/good.pdb,CCO\n"),
    }  # fmt: skip
    for name, content in files.values():
        (tmp_path / name).write_text(content)
    places = {key: tmp_path / name for key, (name, _) in files.items()}
    monkeypatch.delenv("DISCO_DOCKING_MODEL", raising=False)
    monkeypatch.setattr(shipped, "WEIGHTS", tmp_path / "no weights")

    def run(line: str, **more: Path) -> tuple[int, str, str]:
        words = [
            word.format(**places, **{"out": tmp_path / "out", "place": tmp_path, "model": model, **more})
            for word in line.split()
        ]
        monkeypatch.setattr(sys, "argv", ["disco", "dock", "--device", "cpu", "--quiet", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = capsys.readouterr()
        assert isinstance(stop.value.code, int)
        return stop.value.code, printed.out, printed.err

    return run


@pytest.mark.parametrize(("line", "words"), REFUSED.values(), ids=REFUSED)
def test_a_command_that_cannot_work_is_refused_in_one_line(
    typed: Callable[..., tuple[int, str, str]], tmp_path: Path, line: str, words: str
) -> None:
    code, out, err = typed(line)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"\w+Error: .*\n", err), err
    assert [word for word in words.split("|") if word not in err] == [], err
    assert not list(tmp_path.glob("out/*/result.json"))


def test_one_complex_that_fails_is_told_and_gives_exit_code_1(
    typed: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, _, err = typed("-r {empty} -l CCO -o {out} -m {model} --no-report --poses 1")
    assert code == 1
    assert "empty.csv: is empty" in err
    assert "is empty" in (tmp_path / "out" / "failures.csv").read_text()


def test_a_file_name_in_no_encoding_is_docked_and_written_down(
    typed: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9.pdb")
    odd.write_text(HELIX)
    code, _, err = typed("-r {odd} -l CCO --name odd -o {out} -m {model} --no-report --poses 1", odd=odd)
    assert code == 0, err
    assert "caf?.pdb" in (tmp_path / "out" / "summary.csv").read_text()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder into which nobody can write; for root that needs a file system of its own."""
    folder.mkdir()
    if os.geteuid() != 0:
        folder.chmod(0o500)
        yield
        folder.chmod(0o700)
        return
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("root may write everywhere, and may not mount a read-only folder here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("below", ["", "/below"])
def test_a_read_only_folder_is_named(typed: Callable[..., tuple[int, str, str]], tmp_path: Path, below: str) -> None:
    with read_only(tmp_path / "fixed"):
        code, _, err = typed(f"-r {{good}} -l CCO -o {{fixed}}{below} -m {{model}}", fixed=tmp_path / "fixed")
    assert code == 1
    assert re.fullmatch(r"StorageError: cannot write .*fixed.*: (the file system is read-only|permission).*\n", err), (
        err
    )


def test_a_full_disk_ends_the_run_and_with_space_it_goes_on(
    typed: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    rows = "".join(f"n{number},{tmp_path}/good.pdb,CCO\n" for number in range(4))  # two fit on it
    (tmp_path / "many.csv").write_text(f"id,protein,ligand\n{rows}")
    line = "--csv {many} -o {disk}/run -m {model} --poses 4 --steps 1 --no-report --workers 1"
    where = {"many": tmp_path / "many.csv", "disk": tmp_path / "disk"}
    with full_disk(tmp_path / "disk"):
        code, _, err = typed(line, **where)
        done = len(list((tmp_path / "disk").glob("run/*/result.json")))
        left = list((tmp_path / "disk").rglob("*.tmp"))
        subprocess.run(["cp", "-r", tmp_path / "disk", tmp_path / "kept"], check=True)
    assert code == 1
    assert re.fullmatch(r"StorageError: cannot write .*: .*\n", err), err
    assert done < 4
    assert left == []
    code, out, _ = typed(f"{line} --json", **{**where, "disk": tmp_path / "kept"})
    assert code == 0
    assert json.loads(out)["resumed"] == done
    assert len(list((tmp_path / "kept").glob("run/*/result.json"))) == 4


def test_ten_thousand_rows_of_which_every_tenth_is_broken(tmp_path: Path) -> None:
    (tmp_path / "good.pdb").write_text(HELIX)
    wrong = ["a,good.pdb", "a,good.pdb,none.sdf", 'a,"good.pdb,CCO', "a,good.pdb,C1CC", "a,none.pdb,CCO", "a,b,c,d,e"]
    rows = [
        wrong[k // 10 % len(wrong)] if k % 10 == 0 else f"n{k % 5000},good.pdb,{'C' * (k % 3 + 1)}O"
        for k in range(10_000)
    ]
    (tmp_path / "table.csv").write_text("\n".join(["id,protein,ligand", *rows]))
    done = disco("dock", "--csv", tmp_path / "table.csv", "--dry-run", "--json", "--quiet", "-o", tmp_path / "out")
    printed = json.loads(done.stdout)
    assert done.returncode == 3
    assert (printed["docked"], printed["failed"]) == (9000, 1000)
    every = printed["complexes"] + printed["failures"]
    assert len({each["id"] for each in every}) == 10_000
    assert {each["row"] for each in printed["failures"]} == set(range(2, 10_002, 10))
    assert not (tmp_path / "out").exists()
