"""``disco dock`` as a user meets it: what it writes and says, its exit codes, how it stops and goes on."""

import json
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rdkit import Chem

from core.cli import main
from core.errors import RequestError
from core.pipeline import Pipeline
from domains.docking import shipped
from domains.docking.dock import command as command_module
from domains.docking.dock import run as run_module
from domains.docking.dock.command import Command
from domains.docking.dock.settings import DockSettings
from domains.docking.pipeline import DockingPipeline
from tests.docking_models import (
    ROWS,
    assert_same_results,
    contents,
    forked,
    protein,
    records,
    save_model,
    site,
    table_of,
    wait_for,
    write_table,
)  # fmt: skip

BROKEN = "broken,no_such_protein.pdb,CCO,,,,"


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str


Dock = Callable[..., Ran]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command line sets up logging, and looks for a model in the environment: for one test only."""
    monkeypatch.delenv("DISCO_DOCKING_MODEL", raising=False)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers, root.level = handlers, level


@pytest.fixture
def dock(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Dock:
    """Run ``disco dock`` in this process; with the tiny model and one process where nothing else is said."""

    def run(*arguments: object, bare: bool = False) -> Ran:
        given = [str(argument) for argument in arguments]
        usual = {"--model": str(model), "--workers": "0", "--device": "cpu", "--poses": "2"}
        if not bare:
            given += [text for name, value in usual.items() if name not in given for text in (name, value)]
        monkeypatch.setattr(sys, "argv", ["disco", "dock", *given])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return Ran(int(end.value.code or 0), said.out, said.err)

    return run


def pocket(name: str = "1bvi") -> list[object]:
    where = site(name)
    return ["--center", *where["center"], "--radius", where["radius"]]


def test_one_complex_gives_what_the_python_api_gives(dock: Dock, model: Path, tmp_path: Path) -> None:
    ligand = tmp_path / "ligands.smi"
    ligand.write_text("CCCO chain\n")
    out = tmp_path / "out"
    ran = dock("--protein", protein("1bvi"), "--ligand", ligand, "--out", out, "--seed", 3, *pocket())
    assert ran.code == 0
    assert ran.out == ""
    assert "1 docked" in ran.err
    assert str(out / "report.html") in ran.err
    assert (out / "report.html").is_file()
    pipeline = Pipeline.from_pretrained(model, "cpu")
    assert isinstance(pipeline, DockingPipeline)
    result = pipeline.dock(protein("1bvi"), ligand, poses=2, seed=3, **site("1bvi"))
    (record,) = records(out).values()
    assert record["id"] == result.id
    assert [pose["sample"] for pose in record["poses"]] == [pose.sample for pose in result.poses]
    assert record["poses"][0]["latents"] == [dict(latent) for latent in result.poses[0].latents]
    for pose, mol in zip(result.poses, Chem.SDMolSupplier(str(out / result.id / "poses.sdf")), strict=True):
        np.testing.assert_allclose(mol.GetConformer().GetPositions(), pose.positions, atol=1e-3)


def test_exit_codes_say_whether_all_some_or_none_were_docked(dock: Dock, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = dock("--csv", write_table(tmp_path / "some.csv", ROWS[:1], [BROKEN]), "--out", out)
    assert ran.code == 3
    assert "failed: broken (row 3, protein):" in ran.err
    assert f"1 docked; 1 failed, see {out / 'failures.csv'}" in ran.err
    assert [row["id"] for row in table_of(out / "failures.csv")] == ["broken"]
    ran = dock("--csv", write_table(tmp_path / "all.csv", ROWS[:1]), "--out", out)
    assert ran.code == 0
    assert "1 docked (1 of them before)" in ran.err
    assert table_of(out / "failures.csv") == []
    ran = dock("--csv", write_table(tmp_path / "none.csv", (), [BROKEN]), "--out", tmp_path / "none")
    assert ran.code == 1
    assert "0 docked; 1 failed" in ran.err
    assert (tmp_path / "none" / "report.html").is_file()


def test_the_summary_as_json(dock: Dock, tmp_path: Path) -> None:
    table = write_table(tmp_path / "some.csv", ROWS[:1], [BROKEN])
    ran = dock("--csv", table, "--out", tmp_path / "out", "--json", "--no-report")
    said = json.loads(ran.out)
    assert {name: said[name] for name in ("docked", "failed", "resumed", "exit_code")} == {
        "docked": 1, "failed": 1, "resumed": 0, "exit_code": 3,
    }  # fmt: skip
    assert ran.code == 3
    assert said["out"] == str(tmp_path / "out")
    assert said["complexes"][0]["id"] == ROWS[0][0]
    assert said["failures"][0]["stage"] == "protein"
    again = json.loads(dock("--csv", table, "--out", tmp_path / "out", "--json", "--quiet", "--no-report").out)
    assert again["resumed"] == 1
    assert not (tmp_path / "out" / "report.html").exists()


def test_quiet_says_nothing_but_failures(dock: Dock, tmp_path: Path) -> None:
    quiet = dock("--csv", write_table(tmp_path / "all.csv", ROWS[:1]), "--out", tmp_path / "out", "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    failing = dock("--csv", write_table(tmp_path / "some.csv", ROWS[:1], [BROKEN]), "--out", tmp_path / "out", "-q")
    assert (failing.code, failing.out) == (3, "")
    assert failing.err.splitlines() == [line for line in failing.err.splitlines() if line.startswith("failed: broken")]


def test_a_dry_run_reads_everything_and_writes_nothing(dock: Dock, tmp_path: Path) -> None:
    extra = [BROKEN, f"ligandless,{protein('1bvi')},C1CC,,,,", f"astray,{protein('1bvi')},CCO,900,900,900,5"]
    table = write_table(tmp_path / "some.csv", ROWS[:2], extra)
    before = sorted(tmp_path.rglob("*"))
    ran = dock("--csv", table, "--out", tmp_path / "out", "--dry-run", "--json", bare=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert ran.code == 3
    said = json.loads(ran.out)
    assert [each["id"] for each in said["complexes"]] == [name for name, _, _ in ROWS[:2]]
    assert [(each["id"], each["stage"]) for each in said["failures"]] == [
        ("broken", "protein"), ("ligandless", "ligand"), ("astray", "pocket"),
    ]  # fmt: skip
    assert "2 can be docked, 3 cannot" in ran.err


def test_a_run_is_repeated_from_its_config_and_options_beat_it(dock: Dock, tmp_path: Path) -> None:
    table = write_table(tmp_path / "table.csv", ROWS[:1])
    first = tmp_path / "first"
    settings = ["--seed", 5, "--poses", 3, "--steps", 1, "--sampler", "heun", "sampling.prior_temperature=0.5"]
    assert dock("--csv", table, "--out", first, *settings).code == 0
    again = dock(
        "--csv", table, "--out", tmp_path / "again", "--config", first / "config.yaml", "--workers", 0, bare=True
    )
    assert again.code == 0
    assert_same_results(first, tmp_path / "again", 0)
    written = [yaml.safe_load((tmp_path / name / "config.yaml").read_text()) for name in ("first", "again")]
    assert written[0] == written[1]
    assert written[0]["overrides"] == ["sampling.prior_temperature=0.5"]
    other = tmp_path / "other"
    dock("--csv", table, "--out", other, "--config", first / "config.yaml", "--seed", 6, "--poses", 1)
    (record,) = records(other).values()
    assert record["settings"] == {"poses": 1, "steps": 1, "seed": 6, "sampler": "heun", "guidance": 0.0}


@pytest.mark.parametrize(
    ("saved", "given", "expected"),
    [
        ({"center": [1, 2, 3], "radius": 4}, {"pocket": "ligand.sdf"}, {"pocket": Path("ligand.sdf")}),
        ({"pocket": "ligand.sdf"}, {"center": (1, 2, 3), "radius": 4}, {"center": (1, 2, 3), "radius": 4}),
        ({"center": [1, 2, 3], "radius": 4}, {"size": (5, 5, 5)}, {"center": (1, 2, 3), "size": (5, 5, 5)}),
        ({"center": [1, 2, 3], "size": [5, 5, 5]}, {"radius": 4}, {"center": (1, 2, 3), "radius": 4}),
        ({"center": [1, 2, 3], "radius": 4}, {"radius": 6}, {"center": (1, 2, 3), "radius": 6}),
        ({"check": True}, {"check": False}, {"check": False}),
        ({"seed": 4, "guidance": 1.0}, {"seed": 0, "guidance": 0.0}, {"seed": 0, "guidance": 0.0}),
    ],
    ids=str,
)
def test_an_option_replaces_what_the_file_says(
    tmp_path: Path, saved: dict[str, Any], given: dict[str, Any], expected: dict[str, Any]
) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved))
    made = Command.of(given, tmp_path / "config.yaml", protein=Path("p.pdb"), ligand="CCO", out=tmp_path)
    assert made.settings == DockSettings(**expected)


@pytest.mark.parametrize(
    ("content", "words"), [("poses: [", "cannot be read as YAML"), ("poses", "no settings"), ("pose: 3", "no 'pose'")]
)
def test_a_config_that_is_none_is_named(dock: Dock, tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "config.yaml").write_text(content)
    ran = dock("--protein", protein("1bvi"), "--ligand", "CCO", "--config", tmp_path / "config.yaml")
    assert ran.code == 1
    assert words in ran.err


def test_pockets_as_other_programs_take_them(dock: Dock, tmp_path: Path) -> None:
    x, y, z = site("1bvi")["center"]
    ran = dock(
        "--receptor", protein("1bvi"), "--ligand", "CCO", "--out_dir", tmp_path / "out", "--samples_per_complex", 1,
        "--center_x", x, "--center_y", y, "--center_z", z, "--size_x", 16, "--size_y", 16, "--size_z", 16,
    )  # fmt: skip
    assert ran.code == 0
    (record,) = records(tmp_path / "out").values()
    assert "box" in record["pocket"]
    assert record["protein"]["residues"] < 40
    ran = dock("--receptor", protein("1bvi"), "--ligand", "CCO", "--out", tmp_path / "other", "--center_x", x)
    assert ran.code == 1
    assert "--center_x, --center_y and --center_z belong together" in ran.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give either --protein and --ligand, or --csv"),
        (("--protein", "p.pdb", "--csv", "t.csv"), "give either"),
        (("--protein", "p.pdb"), "--ligand is missing"),
        (("--ligand", "CCO"), "--protein is missing"),
        (("--csv", "t.csv", "--name", "x"), "in a table they are columns"),
        (("--csv", "no_such_table.csv"), "no_such_table.csv: no such file"),
        (("--protein", "p.pdb", "--ligand", "CCO", "--poses", "0"), "poses"),
        (("--protein", "p.pdb", "--ligand", "CCO", "--batch-size", "many"), "batch_size"),
        (("--protein", "p.pdb", "--ligand", "CCO", "--radius", "5"), "radius and size need a center"),
        (("--protein", "p.pdb", "--ligand", "CCO", "--rescore", "magic"), "rescore"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_for_is_named_in_one_line(
    dock: Dock, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    ran = dock(*arguments, "--out", tmp_path / "out")
    assert ran.code == 1
    assert words in ran.err
    assert len(ran.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


# Models


def test_without_a_model_the_user_is_told_where_to_get_one(
    dock: Dock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "WEIGHTS", tmp_path / "no weights")
    ran = dock("--protein", protein("1bvi"), "--ligand", "CCO", "--out", tmp_path / "out", bare=True)
    assert ran.code == 1
    assert shipped.NO_WEIGHTS in ran.err
    assert "--model" in ran.err
    assert "disco convert" in ran.err
    assert len(ran.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    ran = dock("--protein", protein("1bvi"), "--ligand", "CCO", "--model", tmp_path / "none", "--out", tmp_path / "out")
    assert f"{tmp_path / 'none'}: no such folder" in ran.err


def test_a_model_of_the_environment_is_found(
    dock: Dock, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISCO_DOCKING_MODEL", str(model))
    arguments = ["--protein", protein("1bvi"), "--ligand", "CCO", "--poses", 1, "--workers", 0, *pocket()]
    assert dock(*arguments, "--out", tmp_path / "out", bare=True).code == 0
    assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["model"] == str(model)


@pytest.mark.parametrize(
    ("name", "parts", "options", "words"),
    [
        ("toy", None, (), "a model of 'toy', not of docking"),
        ("docking", ("denoiser", "encoder"), (), "no prior yet"),
        ("docking-plain", None, ("--guidance", "1"), "guidance on latents was asked for"),
        ("docking", None, ("--sampler", "magic"), "unknown sampler 'magic'"),
        ("docking", None, ("--device", "cuda:7"), "device 'cuda:7' is not there"),
    ],
    ids=["toy", "no-prior", "guidance", "sampler", "device"],
)
def test_what_a_model_cannot_do_is_said_before_anything_is_docked(
    dock: Dock, tmp_path: Path, name: str, parts: tuple[str, ...] | None, options: tuple[str, ...], words: str
) -> None:
    folder = save_model(tmp_path / "model", name, parts=parts)
    out = tmp_path / "out"
    ran = dock("--protein", protein("1bvi"), "--ligand", "CCO", "--out", out, "--model", folder, *options)
    assert ran.code == 1
    assert words in ran.err
    assert len(ran.err.splitlines()) == 1
    assert records(out) == {}
    assert not (out / "summary.csv").exists()


# Stopping


def slowly(dock: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """The same with pauses, so that a run is not over before it can be stopped."""

    def paused(*arguments: Any) -> Iterator[Any]:
        for outcome in dock(*arguments):
            yield outcome
            time.sleep(1)

    return paused


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGINT, 0), (signal.SIGTERM, 2)], ids=["ctrl-c", "terminated-with-two-processes"]
)
def test_a_stopped_run_says_how_to_go_on_and_does(
    dock: Dock, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, workers: int
) -> None:
    monkeypatch.setattr(run_module, "get_context", lambda _: multiprocessing.get_context("fork"))
    monkeypatch.setattr(run_module, "SHARD", {"cpu": 2})
    out, log = tmp_path / "out", tmp_path / "log"
    table = write_table(tmp_path / "table.csv")
    arguments = ["--csv", table, "--out", out, "--workers", workers, "--model", model, "--poses", 2, "--no-report"]
    monkeypatch.setattr(sys, "argv", ["disco", "dock", *map(str, arguments)])
    quick = run_module._dock
    monkeypatch.setattr(run_module, "_dock", slowly(quick))
    with forked(main, log) as child:
        wait_for(lambda: records(out))
        os.kill(child, number)
        _, status = os.waitpid(child, 0)
        with pytest.raises(ProcessLookupError):
            os.killpg(child, 0)
    monkeypatch.setattr(run_module, "_dock", quick)
    said = log.read_text()
    assert os.waitstatus_to_exitcode(status) == 128 + number, said
    assert f"stopped; what is docked is in {out}. Go on with:" in said
    assert f"disco dock --csv {table} --out {out}" in said
    assert "Traceback" not in said
    done = len(records(out))
    assert 0 < done < len(ROWS)
    assert {row["id"] for row in table_of(out / "summary.csv")} <= records(out).keys()
    ran = dock(*arguments)
    assert ran.code == 0
    assert f"{len(ROWS)} docked ({done} of them before)" in ran.err
    assert len(contents(out)) == len(ROWS) * 4 + 3 + 2


def test_progress_is_told_now_and_then(dock: Dock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_module, "LINE_EVERY", 2)
    ran = dock("--csv", write_table(tmp_path / "t.csv", ROWS[:3], [BROKEN]), "--out", tmp_path / "out", "--poses", 1)
    assert "2 done, 0 failed" in ran.err
    assert "3 done, 1 failed" in ran.err


def test_processes_are_as_many_as_cores_and_memory_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for free, count in ((100e9, 8), (5e9, 3), (1e9, 1)):
        monkeypatch.setattr(command_module, "_free_bytes", lambda free=free: int(free))
        assert command_module._workers("cpu", language=False) == count
    monkeypatch.setattr(command_module, "_free_bytes", lambda: int(10e9))
    assert command_module._workers("cpu", language=True) == 2
    assert command_module._workers("cuda:0", language=False) == command_module.PER_GPU


def test_the_free_memory_of_this_machine_is_known() -> None:
    assert command_module._free_bytes() > 1e8


def test_a_table_without_rows_is_no_success(dock: Dock, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("complex_name,protein_path,ligand_description\n")
    ran = dock("--csv", tmp_path / "table.csv", "--out", tmp_path / "out")
    assert ran.code == 1
    assert "nothing to dock" in ran.err


def test_a_centre_of_the_command_line_keeps_the_radius_of_the_file(tmp_path: Path) -> None:
    saved = tmp_path / "config.yaml"
    saved.write_text("center: [1, 2, 3]\nradius: 9\nbatch_size: 4\n")
    inputs = {"csv": tmp_path / "t.csv", "out": tmp_path}
    moved = Command.of({"center": (4.0, 5.0, 6.0), "batch_size": "8"}, saved, **inputs).settings
    assert (moved.center, moved.radius, moved.batch_size) == ((4.0, 5.0, 6.0), 9.0, 8)
    assert Command.of({"pocket": tmp_path / "l.sdf"}, saved, **inputs).settings.center is None
    saved.write_text("overrides: abc\n")
    with pytest.raises(RequestError, match="overrides a list"):
        Command.of({}, saved, **inputs)
    with pytest.raises(RequestError, match="batch_size"):
        Command.of({"batch_size": "\u00b2"}, None, **inputs)
