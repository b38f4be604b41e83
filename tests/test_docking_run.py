"""A docking run can be killed at any moment and goes on; a job that fails, or kills its process, harms no other."""

import gzip
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from core.errors import ConfigError, RequestError, StorageError
from domains.docking.chemistry.ligand import Ligand
from domains.docking.chemistry.protein import read_protein
from domains.docking.dock import run as run_module
from domains.docking.dock.command import Command
from domains.docking.dock.folder import RunFolder
from domains.docking.dock.jobs import Failure, Job
from domains.docking.dock.result import DockingResult
from domains.docking.dock.run import Model, Summary, run
from domains.docking.dock.worker import Worker
from tests.docking_models import (
    ROWS,
    assert_same_results,
    contents,
    dock_table,
    forked,
    protein,
    records,
    save_model,
    table_of,
    temporary_files,
    wait_for,
    write_table,
)  # fmt: skip
from tests.support import ROOT
from tests.test_files import full_disk

SOME = ROWS[:6:2]  # a few rows, where one run is not enough


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All rows, and one that cannot be docked."""
    path = tmp_path_factory.mktemp("table") / "table.csv"
    return write_table(path, extra=["broken,no_such_protein.pdb,CCO,,,,"])


@pytest.fixture(scope="module")
def whole(model: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    summary = dock_table(model, table, out)
    assert len(summary.rows) == len(ROWS)
    assert [failure.id for failure in summary.failures] == ["broken"]
    return out


@pytest.fixture
def fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of the pool are copies of this one, which have nothing to import."""
    monkeypatch.setattr(run_module, "get_context", lambda _: multiprocessing.get_context("fork"))


def test_the_tables_name_every_row_once(whole: Path) -> None:
    rows, failures = table_of(whole / "summary.csv"), table_of(whole / "failures.csv")
    assert [row["id"] for row in rows] == [name for name, _, _ in ROWS]
    assert [int(row["row"]) for row in rows] == list(range(2, len(ROWS) + 2))
    assert all((whole / row["best_pose"]).is_file() for row in rows)
    (failure,) = failures
    assert (failure["id"], failure["row"], failure["stage"]) == ("broken", str(len(ROWS) + 2), "protein")
    assert "no_such_protein.pdb" in failure["reason"]
    for name, record in records(whole).items():
        assert record["id"] == name
        assert (whole / name / record["protein"]["file"]).is_file()
    assert len(list((whole / "proteins").iterdir())) == 2, "one file per protein, not per complex"
    assert temporary_files(whole) == []


@pytest.mark.usefixtures("fork")
def test_processes_and_batches_change_nothing(model: Path, table: Path, whole: Path, tmp_path: Path) -> None:
    dock_table(model, table, tmp_path / "out", workers=2, batch_size=1)
    assert_same_results(tmp_path / "out", whole)


def test_the_order_of_the_rows_changes_no_pose(model: Path, whole: Path, tmp_path: Path) -> None:
    dock_table(model, write_table(tmp_path / "table.csv", ROWS[::-1][:3]), tmp_path / "out")
    for name, record in records(tmp_path / "out").items():
        assert {**record, "seconds": 0} == {**records(whole)[name], "seconds": 0}
        assert (tmp_path / "out" / name / "poses.sdf").read_text() == (whole / name / "poses.sdf").read_text()


# Killed


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.usefixtures("fork")
def test_a_run_that_is_killed_twenty_times_ends_like_one_that_was_not(
    model: Path, table: Path, whole: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten times each alone and with two processes, whenever a result is about to be there or a moment later."""
    monkeypatch.setattr(run_module, "SHARD", {"cpu": 2})  # one job at a time, so that every process gets somewhere
    out, moments = tmp_path / "out", random.Random(workers)
    kills, log = 0, tmp_path / "log"
    while kills < 10:
        before = sum(1 for _ in out.glob("*/*"))
        with forked(lambda: ignore(dock_table(model, table, out, workers=workers)), log) as child:
            want = before + moments.randrange(4)
            wait_for(lambda want=want, child=child: sum(1 for _ in out.glob("*/*")) > want or ended(child))
            time.sleep(moments.random() * 0.03)
            kills += not ended(child)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0) if not ended(child) else None
            wait_for(lambda child=child: not group(child), 20)  # its children ended with it
        if len(records(out)) == len(ROWS):  # it was too quick: once more from the start
            dock_table(model, table, out)
            assert_same_results(out, whole)
            shutil.rmtree(out)
        for record in records(out).values():
            assert all((out / record["id"] / pose["file"]).is_file() for pose in record["poses"])
    dock_table(model, table, out)
    assert_same_results(out, whole)
    assert temporary_files(out) == []


def ignore(_: object) -> None:
    """For the result of a process that nobody waits for."""


def ended(child: int) -> bool:
    """Whether a child has ended, without taking note of it."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def group(leader: int) -> list[int]:
    """Processes of a group with a thread that is not dead, from /proc: the first thread of a killed process may be gone
    while another still holds its files, and with them the lock of a run."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/task/*/stat"):
        try:
            state, _, of = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(of) == leader and state not in "ZX":
            found.add(int(path.parts[2]))
    return sorted(found)


def test_the_command_killed_with_its_processes_at_work_goes_on(
    model: Path, table: Path, whole: Path, tmp_path: Path
) -> None:
    """The real thing: three processes of their own, of which the first is killed without a warning."""
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "core.cli", "dock", "--csv", str(table), "--model", str(model), "--out", str(out),
        "--poses", "2", "--workers", "2", "--device", "cpu", "--no-report",
    ]  # fmt: skip
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)
        try:
            wait_for(lambda: records(out) or process.poll() is not None)
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert len(group(process.pid)) >= 3
            process.kill()
            process.wait()
            wait_for(lambda: not group(process.pid), 20)
        finally:
            for left in group(process.pid):
                os.kill(left, signal.SIGKILL)
    assert 0 < len(records(out)) <= len(ROWS)
    go_on(table, model, out)
    assert_same_results(out, whole)


def go_on(table: Path, model: Path, out: Path) -> Summary:
    """In this process with the settings that are in the folder, as the same command would."""
    command = Command.of({"poses": 2}, None, csv=table, out=out)
    folder = RunFolder(out, yaml.safe_load((out / "config.yaml").read_text()))
    with folder.opened(False):
        return run(command.jobs(), Model(model, (), "cpu"), command.settings, folder)


# A process that dies


@dataclass(frozen=True, eq=False)
class Deadly(Ligand):
    """A ligand that kills the process which gets it."""

    def __reduce__(self) -> Any:
        return os._exit, (9,)


def with_deadly(jobs: list[Job], *names: str) -> list[Job]:
    """The jobs, some of whose ligands are deadly."""
    return [
        Job(j.id, j.row, j.protein, Deadly(**vars(j.ligand)), j.source, j.site) if j.id in names else j for j in jobs
    ]


@pytest.mark.usefixtures("fork")
def test_a_job_that_kills_its_process_fails_alone(
    model: Path, table: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "SHARD", {"cpu": 4})  # two jobs together
    command = Command.of({"poses": 2}, None, csv=table, out=tmp_path)
    jobs = [job for job in command.jobs() if isinstance(job, Job) and job.id != "broken"]
    culprits = ["1bvi-alanine", "2p70-chain"]
    folder = RunFolder(tmp_path / "out", {})
    with folder.opened(False):
        summary = run(with_deadly(jobs, *culprits), Model(model, (), "cpu"), command.settings, folder, workers=2)
    assert sorted(failure.id for failure in summary.failures) == culprits
    assert {failure.stage for failure in summary.failures} == {"docking"}
    assert all("process died on this input" in failure.reason for failure in summary.failures)
    assert sorted(row["id"] for row in summary.rows) == sorted({j.id for j in jobs} - set(culprits))
    assert [row["id"] for row in table_of(tmp_path / "out" / "failures.csv")] == culprits
    assert summary.exit_code == 3
    kept = contents(whole)
    for name, text in contents(tmp_path / "out").items():
        if name.endswith(".sdf"):
            assert text == kept[name]


@pytest.mark.usefixtures("fork")
def test_a_process_that_is_killed_from_outside_costs_no_job(
    model: Path, table: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kernel does where memory runs out. What was under way is docked again, also where the loss is noticed
    only when the next job is handed over."""
    monkeypatch.setattr(run_module, "SHARD", {"cpu": 2})
    killed: list[int] = []

    def kill_one(_: object) -> None:
        child = multiprocessing.active_children()[:1]
        if child and not killed:
            killed.append(child[0].pid or 0)
            os.kill(killed[0], signal.SIGKILL)
            time.sleep(0.5)

    summary = dock_table(model, table, tmp_path / "out", workers=2, done=kill_one)
    assert killed
    assert len(summary.rows) == len(ROWS)
    assert_same_results(tmp_path / "out", whole)


def test_processes_are_no_more_than_the_jobs_and_share_them_evenly(
    model: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    class Pool:
        def __init__(self, model: Model, settings: object, folder: object, workers: int) -> None:
            seen.append(workers)

        def run(self, shards: Any) -> list[Any]:
            seen.append([len(shard) for shard in shards])
            return []

    monkeypatch.setattr(run_module, "_Pool", Pool)
    dock_table(model, table, tmp_path / "a", workers=4)
    dock_table(model, table, tmp_path / "b", workers=64)
    dock_table(model, table, tmp_path / "c", workers=2, poses=5)
    assert seen == [4, [2, 2, 2, 1], 7, [1] * 7, 2, [2, 2, 2, 1]]


def test_processes_take_the_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [run_module._device("auto", number) for number in range(2)] == ["auto", "auto"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [run_module._device("auto", number) for number in range(4)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert run_module._device("cuda:1", 0) == "cuda:1"
    assert run_module._device("cpu", 1) == "cpu"


# Resuming


def test_finished_rows_are_not_docked_again_and_changed_ones_are(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, path = tmp_path / "out", tmp_path / "table.csv"
    dock_table(model, write_table(path, SOME), out)
    docked: list[str] = []
    dock = Worker.dock

    def watched(self: Worker, jobs: list[Job]) -> Any:
        docked.extend(job.id for job in jobs)
        return dock(self, jobs)

    monkeypatch.setattr(Worker, "dock", watched)
    before = contents(out)
    summary = dock_table(model, path, out)
    assert (docked, summary.resumed, len(summary.rows)) == ([], 3, 3)
    assert contents(out) == before

    names = [name for name, _, _ in SOME]
    changed = (*SOME[:2], (SOME[2][0], SOME[2][1], "CCN"), ROWS[1])
    summary = dock_table(model, write_table(path, changed), out)
    assert docked == [names[2], ROWS[1][0]]
    assert summary.resumed == 2
    assert records(out)[names[2]]["ligand"]["smiles"] == "CCN"

    docked.clear()
    (out / names[0] / "result.json").write_text('{"schema": 1')
    damaged = records_text(out, names[1]).replace('"poses"', '"no_poses"')
    (out / names[1] / "result.json").write_text(damaged)
    summary = dock_table(model, path, out)
    assert docked == names[:2]
    assert len(summary.rows) == 4
    for name in names[:2]:
        assert contents(out)[f"{name}/poses.sdf"] == before[f"{name}/poses.sdf"]

    docked.clear()
    dock_table(model, path, out, overwrite=True)
    assert docked == [name for name, _, _ in changed]


def records_text(out: Path, name: str) -> str:
    return (out / name / "result.json").read_text()


def test_a_protein_that_changed_is_docked_into_again(model: Path, tmp_path: Path) -> None:
    own = tmp_path / "protein.pdb.gz"
    own.write_bytes(protein("1bvi").read_bytes())
    path = tmp_path / "table.csv"
    path.write_text("id,protein,ligand,center_x,center_y,center_z,radius\none,protein.pdb.gz,CCO,20.63,32.76,83.31,9\n")
    dock_table(model, path, tmp_path / "out", poses=1)
    assert dock_table(model, path, tmp_path / "out", poses=1).resumed == 1
    text = gzip.decompress(own.read_bytes()).decode()
    own.write_bytes(gzip.compress("".join(text.splitlines(keepends=True)[:-3]).encode()))
    assert dock_table(model, path, tmp_path / "out", poses=1).resumed == 0
    assert len(list((tmp_path / "out" / "proteins").iterdir())) == 2


def test_results_of_other_settings_are_not_mixed(model: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "out", write_table(tmp_path / "table.csv", SOME[:1])
    dock_table(model, path, out, poses=1)
    with pytest.raises(RequestError, match=r"other settings \(seed 0, now 7\).*--overwrite"):
        dock_table(model, path, out, poses=1, seed=7)
    assert dock_table(model, path, out, poses=1, batch_size=7).resumed == 1, "which changes no result"
    assert dock_table(model, path, out, poses=1, seed=7, overwrite=True).resumed == 0
    other = write_table(tmp_path / "other.csv", SOME[1:2])
    dock_table(model, other, out, poses=1, seed=8, overwrite=True)
    assert list((out / SOME[0][0]).glob("*")) == [], "poses of other settings are nowhere"
    dock_table(model, path, out, poses=1, seed=7, overwrite=True)
    assert records(out)[SOME[0][0]]["settings"]["seed"] == 7
    (out / "config.yaml").write_text("seed: [")
    with pytest.raises(RequestError, match=r"config.yaml, with their settings, is missing or damaged"):
        dock_table(model, path, out, poses=1, seed=7)


def test_a_run_that_is_refused_leaves_the_results_that_it_was_to_overwrite(model: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "out", write_table(tmp_path / "table.csv", SOME[:1])
    dock_table(model, path, out, poses=1)
    before = contents(out)
    with pytest.raises(ConfigError, match="nonsense"):
        dock_table(model, path, out, poses=1, overwrite=True, sampler="nonsense")
    assert contents(out) == before


def test_poses_of_inputs_that_are_no_more_are_taken_away(model: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "out", write_table(tmp_path / "table.csv", SOME[:2])
    dock_table(model, path, out, poses=1)
    name, of, _ = SOME[0]
    write_table(path, [(name, of, "not-a-molecule"), SOME[1]])
    again = dock_table(model, path, out, poses=1)
    assert (again.resumed, [failure.id for failure in again.failures]) == (1, [name])
    assert list(records(out)) == [SOME[1][0]]
    assert list((out / name).glob("*")) == []


def test_the_summary_lists_what_earlier_runs_left_in_the_folder(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in (0, 1):
        dock_table(model, write_table(tmp_path / f"{number}.csv", SOME[number : number + 1]), out, poses=1)
    rows = {row["id"]: row["row"] for row in table_of(out / "summary.csv")}
    assert rows == {SOME[0][0]: "", SOME[1][0]: "2"}


def test_a_protein_that_is_replaced_during_a_run_is_read_again(model: Path, tmp_path: Path) -> None:
    mine = tmp_path / "protein.pdb"
    mine.write_text(gzip.decompress(protein("2p70").read_bytes()).decode())
    lines = ["complex_name,protein_path,ligand_description", f"a,{mine},CCO", f"b,{mine},CCCO"]
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")

    def replace_it(_: object) -> None:
        mine.write_text(gzip.decompress(protein("1bvi").read_bytes()).decode())

    dock_table(model, tmp_path / "table.csv", tmp_path / "out", poses=1, batch_size=1, done=replace_it)
    residues = {name: record["protein"]["residues"] for name, record in records(tmp_path / "out").items()}
    again = dock_table(model, tmp_path / "table.csv", tmp_path / "out", poses=1)
    assert again.resumed < 2, "what was docked into the old protein is docked again"
    after = {name: record["protein"]["residues"] for name, record in records(tmp_path / "out").items()}
    assert after["a"] == after["b"] == read_protein(protein("1bvi")).n_residues != residues["a"]


@pytest.mark.usefixtures("fork")
def test_processes_that_cannot_start_end_the_run_with_the_reason(
    model: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, real = os.getpid(), run_module.Worker

    def worker(*arguments: Any) -> Any:
        if os.getpid() == parent:
            return real(*arguments)
        raise OSError("no memory for the language model")

    monkeypatch.setattr(run_module, "Worker", worker)
    with pytest.raises(RequestError, match="cannot start: no memory for the language model"):
        dock_table(model, table, tmp_path / "out", workers=2)
    assert table_of(tmp_path / "out" / "failures.csv") == [], "no input is blamed"


@pytest.mark.usefixtures("fork")
def test_processes_that_die_as_they_start_end_the_run(
    model: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, real = os.getpid(), run_module.Worker
    monkeypatch.setattr(run_module, "Worker", lambda *a: real(*a) if os.getpid() == parent else os._exit(9))
    with pytest.raises(RequestError, match="dies as it starts"):
        dock_table(model, table, tmp_path / "out", workers=2)
    assert [row["id"] for row in table_of(tmp_path / "out" / "failures.csv")] in ([], ["broken"])


def test_a_folder_without_results_takes_any_settings(model: Path, tmp_path: Path) -> None:
    path = write_table(tmp_path / "table.csv", (), extra=["broken,none.pdb,CCO,,,,"])
    assert dock_table(model, path, tmp_path / "out", seed=1).exit_code == 1
    assert dock_table(model, path, tmp_path / "out", seed=2).exit_code == 1


def test_two_runs_cannot_write_into_one_folder(model: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "out", write_table(tmp_path / "table.csv", SOME[:1])
    with (
        RunFolder(out, {}).opened(False),
        pytest.raises(RequestError, match="another run is writing there"),
    ):
        dock_table(model, path, out)
    assert len(dock_table(model, path, out).rows) == 1, "the lock is free again"


def test_a_run_that_cannot_start_leaves_the_tables(model: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "out", write_table(tmp_path / "table.csv", SOME[:1])
    dock_table(model, path, out)
    before = contents(out)
    weak = save_model(tmp_path / "weak", parts=("denoiser", "encoder"))
    with pytest.raises(RequestError, match="no prior yet"):
        dock_table(weak, path, out)
    assert contents(out) == {**before, "config.yaml": contents(out)["config.yaml"]}


# Disks


def test_a_full_disk_ends_the_run_and_keeps_what_is_whole(model: Path, table: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with full_disk(disk):
        filler = disk / "filler"
        filler.write_bytes(bytes(40_000))
        with pytest.raises(StorageError, match=r"cannot write .*disk") as caught:
            dock_table(model, table, disk / "out")
        assert str(disk) in str(caught.value)
        finished = records(disk / "out")
        for name, record in finished.items():
            assert all((disk / "out" / name / pose["file"]).stat().st_size > 0 for pose in record["poses"])
        assert temporary_files(disk / "out") == []
        filler.unlink()


def test_a_file_in_the_way_is_named(model: Path, tmp_path: Path) -> None:
    path = write_table(tmp_path / "table.csv", SOME[:1])
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match=f"cannot write {tmp_path / 'file'}"):
        dock_table(model, path, tmp_path / "file")
    with pytest.raises(StorageError, match="choose another folder"):
        dock_table(model, path, tmp_path / ("x" * 300))
    out = tmp_path / "out"
    out.mkdir()
    (out / SOME[0][0]).write_text("a file where the complex belongs")
    with pytest.raises(StorageError, match=str(out / SOME[0][0])):
        dock_table(model, path, out)
    assert (out / "failures.csv").is_file()


def test_a_result_that_cannot_be_written_for_a_reason_of_its_own_fails_alone(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write: Callable[..., Any] = DockingResult.write

    def picky(self: DockingResult, *rest: Any, **more: Any) -> Any:
        if self.id == SOME[1][0]:
            raise ValueError("Out of range float values are not JSON compliant")
        return write(self, *rest, **more)

    monkeypatch.setattr(DockingResult, "write", picky)
    summary = dock_table(model, write_table(tmp_path / "table.csv", SOME), tmp_path / "out")
    assert [(failure.id, failure.stage) for failure in summary.failures] == [(SOME[1][0], "output")]
    assert len(summary.rows) == 2


def test_a_long_name_of_a_protein_is_no_obstacle(model: Path, tmp_path: Path) -> None:
    path = tmp_path / f"{'long name ' * 24}.pdb.gz"
    path.write_bytes(protein("1bvi").read_bytes())
    table = write_table(tmp_path / "table.csv", SOME[:1])
    table.write_text(table.read_text().replace(str(protein("1bvi")), str(path)))
    summary = dock_table(model, table, tmp_path / "out", poses=1)
    assert not [failure for failure in summary.failures if isinstance(failure, Failure)]
    assert len(summary.rows) == 1
