"""A library against one receptor: ligands per minute beside AutoDock Vina and a peer, and memory over the run.

    python -m benchmarks.screening --ligands library.smi [--count 1000] [--poses 10] [--steps 20] [--workers 2]
                                   [--vina 8] [--peer COMMAND --peer-count 2] [--complex FOLDER] [--model DIR] [-o DIR]

``disco dock`` runs as a user runs it, start-up included, while the memory of all its processes is read twice a second.
``--vina N`` docks N of the same ligands with Vina (exhaustiveness 8, one box around the whole protein, as the search of
ours is blind too); COMMAND is as in ``benchmarks.docking`` and gets one folder per ligand. Only ours counts start-up.
Compare CPU seconds per ligand: ours runs in ``--workers`` processes of one thread, Vina with as many threads, the peer
with one. Memory is the sum over processes, so what they share counts several times.
"""

import argparse
import csv
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rdkit import Chem

from benchmarks.docking import make_model
from benchmarks.docking_costs import COMPLEX
from benchmarks.measurement import run_command
from core.errors import RequestError
from domains.docking.chemistry.conformer import embed_conformer
from domains.docking.chemistry.ligand import Ligand, read_ligands
from domains.docking.chemistry.protein import read_protein
from domains.docking.dock.protonate import protonated
from domains.docking.dock.rescore import require
from domains.docking.dock.rescore.vina import ligand_pdbqt, receptor_pdbqt
from domains.docking.metrics.poses import with_poses

PAGE = os.sysconf("SC_PAGE_SIZE") / 1024**2
NO_LANGUAGE = "model.language_dim=0"  # its folder may not be at hand, and a receptor is embedded but once
BOX_MARGIN = 4.0  # Angstrom around the protein


@dataclass(frozen=True)
class Speed:
    """What one program needed for ``ligands`` ligands: CPU seconds of all its processes, seconds on the wall."""

    name: str
    ligands: int
    cpu: float
    wall: float

    @property
    def each(self) -> float:
        """CPU seconds per ligand."""
        return self.cpu / self.ligands

    @property
    def per_minute(self) -> float:
        """Ligands per minute of one core."""
        return 60 / self.each


class Memory(threading.Thread):
    """Resident memory of a process and its descendants, MB, with the number of results there were."""

    def __init__(self, pid: int, results: Path) -> None:
        super().__init__(daemon=True)
        self.pid, self.results, self.seen = pid, results, []  # type: ignore[var-annotated]
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.5):
            done = sum(1 for _ in self.results.glob("*/result.json"))
            self.seen.append((done, sum(resident(pid) for pid in family(self.pid))))

    def between(self, low: int, high: int) -> float:
        """Peak MB while between so many results were there."""
        return max((memory for done, memory in self.seen if low <= done <= high), default=float("nan"))


def family(pid: int) -> Iterator[int]:
    """A process and its descendants."""
    yield pid
    for path in Path("/proc").glob(f"{pid}/task/*/children"):
        try:
            children = path.read_text().split()
        except OSError:
            continue
        for child in children:
            yield from family(int(child))


def resident(pid: int) -> float:
    """MB, 0 for a process that has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0.0


def ours(table: Path, count: int, out: Path, model: Path, options: argparse.Namespace) -> tuple[Speed, Memory]:
    """``disco dock`` on a table. Raises RequestError where it docks nothing."""
    command = [
        sys.executable, "-m", "core.cli", "dock", "--csv", str(table), "-o", str(out), "--model", str(model), "--quiet",
        "--poses", str(options.poses), "--steps", str(options.steps), "--workers", str(options.workers), *options.extra,
    ]  # fmt: skip
    before, start = children_cpu(), time.perf_counter()
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        memory = Memory(process.pid, out)
        memory.start()
        code = process.wait()
        memory.ended.set()
    if code not in (0, 3):
        raise RequestError(f"'{shlex.join(command)}' ended with {code}")
    docked = sum(1 for _ in out.glob("*/result.json"))
    print(f"docked {docked} of {count}", file=sys.stderr)
    return Speed("ours", docked, children_cpu() - before, time.perf_counter() - start), memory


def children_cpu() -> float:
    """User and system seconds of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def vina(protein: Path, ligands: Sequence[Ligand], threads: int) -> Speed:
    """AutoDock Vina from PyPI: maps once, then every ligand. Raises RequestError where it is not installed."""
    require(("vina",))
    whole = read_protein(protein)
    low, high = whole.positions.min(0) - BOX_MARGIN, whole.positions.max(0) + BOX_MARGIN
    job = {
        "center": ((low + high) / 2).tolist(), "size": (high - low).tolist(), "threads": threads, "exhaustiveness": 8,
        "ligands": [ligand_pdbqt(each.mol, embed_conformer(each.mol, 0)[None])[0] for each in ligands],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "receptor.pdbqt").write_text(receptor_pdbqt(protonated(whole)))
        (Path(name) / "job.json").write_text(json.dumps(job))
        said = run_command((sys.executable, "-m", "benchmarks.vina_docking", name), threads)
    return Speed("Vina", len(ligands), said.cpu, said.wall)


def peer(command: str, protein: Path, ligands: Sequence[Ligand], options: argparse.Namespace) -> Speed:
    """A peer's program, one process per ligand; it says itself what the docking alone cost."""
    cpu = wall = 0.0
    for ligand in ligands:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "protein.pdb").write_bytes(protein.read_bytes())
            mol = with_poses(ligand.mol, embed_conformer(ligand.mol, 0)[None])
            Chem.MolToMolFile(mol, str(folder / "ligand.sdf"))
            samples = ("sample", "--samples", str(options.poses), "--steps", str(options.steps))
            said = run_command((*shlex.split(command), *samples, "--complex", name, "--seed", "0"), 1)
        print(f"peer: {ligand.name} {said.cpu:.0f} CPU s", file=sys.stderr)
        cpu, wall = cpu + said.cpu, wall + said.wall
    return Speed("peer", len(ligands), cpu, wall)


def write_library(path: Path, protein: Path, ligands: Sequence[Ligand]) -> None:
    """A table as DiffDock reads it."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["complex_name", "protein_path", "ligand_description"])
        writer.writerows([f"lig{number:05d}", str(protein), ligand.smiles] for number, ligand in enumerate(ligands))


def table(speeds: Sequence[Speed]) -> str:
    """Markdown; ratios are CPU seconds per ligand against ours."""
    lines = ["| | ligands | CPU s per ligand | ligands per minute and core | times ours |", "|---|---:|---:|---:|---:|"]
    lines += [
        f"| {s.name} | {s.ligands} | {s.each:.2f} | {s.per_minute:.2f} | {s.each / speeds[0].each:.2f} |"
        for s in speeds
    ]
    return "\n".join(lines)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ligands", type=Path, required=True, help="file with the library")
    parser.add_argument("--count", type=int, default=20, help="ligands that we dock")
    parser.add_argument("--poses", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--complex", type=Path, default=COMPLEX, help="folder whose protein.pdb is the receptor")
    parser.add_argument("--model", type=Path, help="model folder (default: published sizes, random weights)")
    parser.add_argument("--vina", type=int, default=0, help="ligands that Vina docks")
    parser.add_argument("--peer", default="", help="command line of a program to compare with")
    parser.add_argument("--peer-count", type=int, default=1, help="ligands that it docks")
    parser.add_argument("--extra", nargs="*", default=[], help="further arguments of disco dock")
    parser.add_argument("-o", "--out", type=Path, help="folder for screening.md and screening.json")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    protein = next(options.complex.glob("protein.pdb*"))
    ligands = [each for each in read_ligands(options.ligands) if isinstance(each, Ligand)][: options.count]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = options.model or folder / "model"
        if options.model is None:
            make_model(None, model, NO_LANGUAGE)
        write_library(folder / "table.csv", protein, ligands)
        speed, memory = ours(folder / "table.csv", len(ligands), folder / "out", model, options)
    speeds = [speed]
    if options.vina:
        speeds.append(vina(protein, ligands[: options.vina], options.workers))
    if options.peer:
        speeds.append(peer(options.peer, protein, ligands[: options.peer_count], options))
    print(text := table(speeds))
    tenth = max(1, len(ligands) // 10)
    spans = {f"{k * tenth} to {(k + 1) * tenth} docked": memory.between(k * tenth, (k + 1) * tenth) for k in range(10)}
    print("peak MB of all processes: " + ", ".join(f"{span}: {mb:.0f}" for span, mb in spans.items()))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "screening.md").write_text(text + "\n")
        record = {"options": vars(options), "speeds": [asdict(s) for s in speeds], "memory": memory.seen}
        (options.out / "screening.json").write_text(json.dumps(record, default=str, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
