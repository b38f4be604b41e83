"""Tiny untrained docking models in folders, a table to dock, and the results of two runs side by side."""

import csv
import io
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from core.pipeline import Pipeline
from core.registry import get_domain
from domains.docking.chemistry.ligand import read_ligand
from domains.docking.dock.command import Command
from domains.docking.dock.folder import RunFolder
from domains.docking.dock.run import Model, Outcome, Summary, run
from tests.support import DOCKING_DATA, tiny_config

COMPLEXES = DOCKING_DATA / "complexes"
# A deterministic sampler and little translation keep the poses of random weights at the protein, where the parts of a
# batch could touch each other and where confidences differ.
NEAR = (
    "sampling.sampler=euler", "sampling.steps=2", "model.noise.tr=[0.1,5.0]", "model.denoiser.layers=1",
    "model.confidence.layers=1",
)  # fmt: skip
LIGANDS = {"ring": "c1ccccc1", "alanine": "C[C@H](N)C(=O)O", "chain": "CCCO", "acid": "CC(=O)O"}
NUMBER = re.compile(r"-?\d+\.\d+")


def save_model(
    folder: Path, name: str = "docking", overrides: Sequence[str] = (), parts: Sequence[str] | None = None
) -> Path:
    """Model folder with random weights: a key of ``support.VARIANTS``; parts: networks that it has, None for all."""
    config = tiny_config(name, [*NEAR, *overrides] if name.startswith("docking") else overrides)
    domain = get_domain(config.domain)(config)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = {part: build() for part, build in domain.parts().items() if parts is None or part in parts}
    Pipeline(domain, networks).save_pretrained(folder)
    return folder


def protein(name: str) -> Path:
    return COMPLEXES / name / "protein.pdb.gz"


def site(name: str, radius: float = 9.0) -> dict[str, Any]:
    """A small pocket around the true pose, which makes docking quick."""
    crystal = read_ligand(COMPLEXES / name / "ligand.sdf").coordinates
    assert crystal is not None
    return {"center": tuple(np.round(crystal.mean(0), 2).tolist()), "radius": radius}


Row = tuple[str, str, str]  # name, protein, SMILES
ROWS: tuple[Row, ...] = tuple(
    (f"{name}-{ligand}", name, LIGANDS[ligand]) for name in ("1bvi", "2p70") for ligand in ("alanine", "chain", "acid")
)


def write_table(path: Path, rows: Sequence[Row] = ROWS, extra: Sequence[str] = ()) -> Path:
    """A table for ``--csv``: every ligand in a small pocket; extra: further lines."""
    lines = ["complex_name,protein_path,ligand_description,center_x,center_y,center_z,radius"]
    for name, of, smiles in rows:
        where = site(of)
        lines.append(",".join([name, str(protein(of)), smiles, *map(str, where["center"]), str(where["radius"])]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, *extra]) + "\n")
    return path


def dock_table(
    model: Path, table: Path, out: Path, *, workers: int = 0, overwrite: bool = False,
    done: Callable[[Outcome], None] = lambda outcome: None, **settings: Any,
) -> Summary:  # fmt: skip
    """What ``disco dock --csv`` does with a folder, without words and report."""
    command = Command.of({"poses": 2, **settings}, None, csv=table, out=out)
    folder = RunFolder(out, {"model": str(model)})
    with folder.opened(overwrite):
        return run(command.jobs(), Model(model, (), "cpu"), command.settings, folder, workers, done)


def contents(out: Path) -> dict[str, str]:
    """Every file of a result folder but the report and the lock, without times and what changes no result."""
    found = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file() and p.name not in ("report.html", ".lock")):
        text = path.read_text()
        if path.name == "result.json":
            text = json.dumps({**json.loads(text), "seconds": 0})
        if path.name == "summary.csv":
            text = json.dumps([{**row, "seconds": 0} for row in csv.DictReader(io.StringIO(text))])
        if path.name == "config.yaml":
            free = ("model", "model_sha256", "overrides", "batch_size")
            text = str({key: value for key, value in yaml.safe_load(text).items() if key not in free})
        found[str(path.relative_to(out))] = text
    return found


def assert_same_results(one: Path, other: Path, tolerance: float = 1.01e-3) -> None:
    """The same files with the same words; numbers (Angstrom above all) agree to 1e-3, beside the files' rounding."""
    first, second = contents(one), contents(other)
    assert first.keys() == second.keys()
    for name, text in first.items():
        assert NUMBER.split(text) == NUMBER.split(second[name]), name
        numbers = [[float(x) for x in NUMBER.findall(each)] for each in (text, second[name])]
        np.testing.assert_allclose(*numbers, rtol=0, atol=tolerance, err_msg=name)


def records(out: Path) -> dict[str, dict[str, Any]]:
    """result.json of every finished complex."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(out.glob("*/result.json"))}


def table_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def temporary_files(out: Path) -> list[Path]:
    return [path for path in out.rglob(".*") if path.name != ".lock"]


@contextmanager
def forked(work: Callable[[], None], output: Path) -> Iterator[int]:
    """A process, copied from this one with all that it has imported, that does ``work`` and ends; yields its id.

    What it prints goes to ``output``. It leads a process group of its own, of which nothing is left afterwards.
    """
    child = os.fork()
    if child == 0:
        status = 70
        try:
            os.setpgid(0, 0)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it
            sys.stdout = sys.stderr = output.open("a", buffering=1)
            work()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            os._exit(status)
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)


def wait_for(condition: Callable[[], object], seconds: float = 300.0) -> None:
    """Until something is so. AssertionError where it takes too long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
