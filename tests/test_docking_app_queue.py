"""disco app: dockings in line, what they leave behind when they end or break off, and what is forgotten then."""

import gzip
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import FormData

from core.errors import StorageError
from domains.docking.chemistry.ligand import Ligand
from domains.docking.dock.app import queue
from domains.docking.dock.app.labels import LabelledFolder
from domains.docking.dock.app.order import read_order
from domains.docking.dock.app.queue import Queue, WatchedPipeline
from domains.docking.dock.jobs import Job
from domains.docking.dock.result import DockingResult
from tests.app_support import LIMIT, PATIENCE, PROTEIN, archive_of, serving, tiny_pipeline


def test_dockings_wait_in_line_and_can_be_stopped(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    gate, at_once = threading.Event(), []

    class Gated(WatchedPipeline):
        def solve(self, *arguments: Any, **named: Any) -> Any:
            at_once.append(1)
            gate.wait(PATIENCE)
            at_once.pop()
            assert not at_once
            return super().solve(*arguments, **named)

    gated = Gated(pipeline.domain, pipeline.networks)
    with serving(gated, tmp_path, waiting=2) as server:
        first = server.dock({"ligand": "CCO"})
        server.wait(first, "running")
        second, third = server.dock({"ligand": "CCN"}), server.dock({"ligand": "CCF"})
        assert [server.status(each)["ahead"] for each in (first, second, third)] == [0, 1, 2]
        status, told = server.post({"protein": PROTEIN, "ligand": "CO"})
        assert (status, told["error"]) == (429, "too many dockings are waiting already: try again in a while")
        assert len(list(tmp_path.iterdir())) == 3
        assert server.ask("DELETE", f"/jobs/{first}")[0] == 204  # while it runs
        assert server.ask("DELETE", f"/jobs/{second}")[0] == 204  # while it waits
        assert not (tmp_path / second).exists()
        gate.set()
        assert server.wait(third)["state"] == "done"
        assert [server.ask("GET", f"/jobs/{each}")[0] for each in (first, second)] == [404, 404]
        assert [path.name for path in tmp_path.iterdir()] == [third]
        assert server.ask("DELETE", f"/jobs/{third}")[0] == 204
        assert not list(tmp_path.iterdir())


def test_what_was_finished_before_a_docking_broke_off_can_be_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = LabelledFolder.write

    def full(self: LabelledFolder, job: Job, result: DockingResult) -> dict[str, Any]:
        if job.id.endswith("second"):
            raise StorageError("the disk is full")
        return write(self, job, result)

    monkeypatch.setattr(LabelledFolder, "write", full)
    with serving(tiny_pipeline(), tmp_path) as server:
        told = server.wait(server.dock({"ligand": "CCO first\nCCN second\nCCF third"}))
        assert (told["state"], told["error"]) == ("failed", "the disk is full")
        assert [row["id"] for row in told["results"]] == ["6w70_protein_first"]
        files = archive_of(server, told)
        assert {"docked/report.html", "docked/summary.csv", "docked/6w70_protein_first/rank1.sdf"} <= files.keys()
        assert server.get(told["report"]) == files["docked/report.html"]
        pose = f"/jobs/{told['id']}/files/6w70_protein_first/rank1.sdf"
        assert server.get(pose) == files["docked/6w70_protein_first/rank1.sdf"]


def test_poses_can_be_fetched_where_no_report_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_report(out: Path) -> None:
        raise StorageError("no room for a report")

    monkeypatch.setattr(queue, "write_run_report", no_report)
    with serving(tiny_pipeline(), tmp_path) as server:
        told = server.wait(server.dock({"ligand": "CCO"}))
        assert (told["state"], told["error"], told["report"]) == ("failed", "no room for a report", None)
        assert "docked/6w70_protein_pasted-ligand/rank1.sdf" in archive_of(server, told)


def test_a_docking_that_has_ended_keeps_no_molecule(tmp_path: Path) -> None:
    class Broken(WatchedPipeline):
        def solve(self, *_: Any, **__: Any) -> Any:
            raise OSError("nobody has thought of this")

    pipeline = tiny_pipeline()
    for name, model in {"done": pipeline, "failed": Broken(pipeline.domain, pipeline.networks)}.items():
        turns = Queue(model, tmp_path)
        id_, folder = turns.new_folder()
        form = FormData({"protein": gzip.decompress(PROTEIN.read_bytes()).decode(), "ligand": "CCO\nx y", "steps": "1"})
        docking = turns.submit(id_, folder, read_order(form, folder / "inputs", LIMIT))
        end = time.monotonic() + PATIENCE
        while docking.state in ("waiting", "running"):
            assert time.monotonic() < end
            time.sleep(0.05)
        turns.close()
        assert docking.state == name
        assert docking.order.ligands == 1
        assert not any(isinstance(each, Job | Ligand) for each in reachable(docking))


def reachable(root: object) -> Iterator[object]:
    """Everything that an object of ours holds, itself first; what other libraries hold is not looked into."""
    seen: set[int] = set()
    left = [root]
    while left:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if isinstance(each, dict):
            left += each.values()
        elif isinstance(each, list | tuple | set):
            left += each
        elif type(each).__module__.startswith("domains."):
            left += vars(each).values() if hasattr(each, "__dict__") else []


def test_ids_are_long_and_their_folders_private(tmp_path: Path) -> None:
    turns = Queue(tiny_pipeline(), tmp_path)
    made = [turns.new_folder() for _ in range(50)]
    turns.close()
    assert len({id_ for id_, _ in made}) == 50
    assert all(re.fullmatch(r"[\w-]{22}", id_) for id_, _ in made)
    assert {path.stat().st_mode & 0o777 for _, path in made} == {0o700}
