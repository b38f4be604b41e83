"""What docking costs: start-up, reading a complex, ranked poses, a training step; beside a peer's, where one is given.

    python -m benchmarks.docking [--cases start,sample-10] [--rounds 2] [--peer COMMAND] [-o FOLDER]

Every measurement is a process of its own that prints one line of JSON: ``cpu`` (user + system seconds of all threads),
``wall`` (seconds), ``peak_mb`` (of the whole process), ``run_peak_mb`` (of the measured part) and ``parts`` (CPU
seconds by name). COMMAND is a program that takes the arguments of a case (``sample --samples 10 --steps 20 --complex
DIR --seed 0``) and prints such a line; both sides run in turns. Compare CPU seconds: wall suffers from other processes.
"""

import argparse
import contextlib
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from core.errors import DataError, DiscoError, RequestError

OWN = (sys.executable, "-m", "benchmarks.docking", "_ours")
COMPLEX = Path("/tmp/disco_data/train/ddex_6w70")


@dataclass(frozen=True)
class Case:
    """One kind of measurement. units: what ``cpu`` is divided by in the table (samples; steps are divided already)."""

    name: str
    arguments: tuple[str, ...]
    units: int
    unit: str


def _sampling(count: int) -> Case:
    return Case(f"sample-{count}", ("sample", "--samples", str(count), "--steps", "20"), count, "sample")


CASES = {
    case.name: case
    for case in (
        Case("start", ("startup",), 1, "start"),
        Case("prepare", ("prepare",), 1, "complex"),
        _sampling(10),
        _sampling(40),
        Case("train", ("train", "--copies", "8", "--steps", "3"), 1, "step"),
    )
}


@dataclass(frozen=True)
class Measurement:
    """What one process said of itself: seconds, MB (1024^2 bytes), CPU seconds of named parts."""

    cpu: float
    wall: float
    peak_mb: float
    run_peak_mb: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)

    @staticmethod
    def parse(output: str, source: str) -> "Measurement":
        """From the last line of a program's output; what else the line holds is left aside.

        Raises DataError, naming ``source``, where that line is no such JSON.
        """
        lines = output.strip().splitlines()
        try:
            said = json.loads(lines[-1])
            cpu, wall, peak = (float(said[name]) for name in ("cpu", "wall", "peak_mb"))
            run_peak = said.get("run_peak_mb")
            parts = {str(name): float(value) for name, value in said.get("parts", {}).items()}
            return Measurement(cpu, wall, peak, None if run_peak is None else float(run_peak), parts)
        except (IndexError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{source}: the last line of output is not JSON with cpu, wall and peak_mb ({error!r}); "
                "a peer must print it at its end, and everything else to stderr"
            ) from error


@dataclass(frozen=True)
class Result:
    """Measurements of one case; peer is empty where none was given, else as long as ours."""

    case: Case
    ours: list[Measurement]
    peer: list[Measurement]

    def ratio(self, quantity: Callable[[Measurement], float]) -> tuple[float, float, float]:
        """Median, lowest and highest of peer / ours over the rounds."""
        ratios = [quantity(b) / quantity(a) for a, b in zip(self.ours, self.peer, strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)


def run_command(command: tuple[str, ...], threads: int) -> Measurement:
    """Run a measuring program; its stderr is shown only where it fails.

    Raises RequestError where it cannot be started or ends with an error.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    name = shlex.join(command)
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except OSError as error:
        raise RequestError(f"cannot start '{name}': {error}") from error
    if done.returncode:
        raise RequestError(f"'{name}' ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return Measurement.parse(done.stdout, name)


def compare(case: Case, peer: tuple[str, ...], options: argparse.Namespace) -> Result:
    """Ours and the peer's in turns."""
    result = Result(case, [], [])
    for number in range(options.rounds):
        arguments = (*case.arguments, "--complex", str(options.complex), "--seed", str(number))
        for name, command, found in (("ours", OWN, result.ours), ("peer", peer, result.peer)):
            if command:
                found.append(run_command((*command, *arguments), options.threads))
                print(f"{case.name} round {number + 1} {name}: {found[-1].cpu:.1f} CPU s", file=sys.stderr)
    return result


def table(results: list[Result]) -> str:
    """Markdown: medians of both sides, and the median (lowest to highest) of the ratios of the rounds."""
    lines = ["| case | quantity | ours | peer | peer / ours |", "| --- | --- | ---: | ---: | ---: |"]
    for result in results:
        for name, quantity in _quantities(result).items():
            ours = statistics.median(map(quantity, result.ours))
            peer, ratio = "", ""
            if result.peer:
                peer = f"{statistics.median(map(quantity, result.peer)):.4g}"
                middle, low, high = result.ratio(quantity)
                ratio = f"{middle:.2f} ({low:.2f} to {high:.2f})"
            lines.append(f"| {result.case.name} | {name} | {ours:.4g} | {peer} | {ratio} |")
    return "\n".join(lines)


def _quantities(result: Result) -> dict[str, Callable[[Measurement], float]]:
    """Rows of a case: what every measurement of both sides has and is above zero."""
    units, unit = result.case.units, result.case.unit
    rows: dict[str, Callable[[Measurement], float]] = {
        f"CPU s per {unit}": lambda m: m.cpu / units,
        f"wall s per {unit}": lambda m: m.wall / units,
        "peak MB": lambda m: m.peak_mb,
        "peak MB of the run": lambda m: m.run_peak_mb or 0.0,
    }
    names = dict.fromkeys(name for m in result.ours for name in m.parts)
    rows |= {f"CPU s, {name}": lambda m, name=name: m.parts.get(name, 0.0) for name in names}  # type: ignore[misc]
    return {name: row for name, row in rows.items() if all(row(m) > 0 for m in (*result.ours, *result.peer))}


def report(results: list[Result], options: argparse.Namespace) -> None:
    """Print the table; with ``-o`` write it to docking.md and everything measured to docking.json."""
    text = table(results)
    print(text)
    if options.out is None:
        return
    options.out.mkdir(parents=True, exist_ok=True)
    settings = {
        "complex": str(options.complex), "rounds": options.rounds, "threads": options.threads, "peer": options.peer,
        "torch": torch.__version__, "machine": platform.processor() or platform.machine(), "cores": os.cpu_count(),
    }  # fmt: skip
    said = {"settings": settings, "results": [asdict(result) for result in results]}
    (options.out / "docking.md").write_text(text + "\n")
    (options.out / "docking.json").write_text(json.dumps(said, indent=1) + "\n")


class Clock:
    """CPU seconds of named parts of this process, and its peak memory."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self.cpu, self.wall = time.process_time(), time.perf_counter()
        with contextlib.suppress(OSError):  # Linux: start the peak anew
            Path("/proc/self/clear_refs").write_text("5")

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.parts[name] = self.parts.get(name, 0.0) + time.process_time() - start

    def stop(self, repeats: int = 1) -> Measurement:
        """All since the clock was made, per repeat."""
        cpu, wall = time.process_time() - self.cpu, time.perf_counter() - self.wall
        run_peak = None
        with contextlib.suppress(OSError):
            status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            run_peak = float(status["VmHWM"].split()[0]) / 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
        parts = {name: seconds / repeats for name, seconds in self.parts.items()}
        return Measurement(cpu / repeats, wall / repeats, peak, run_peak, parts)


def run_ours(options: argparse.Namespace) -> Measurement:
    """One measurement of this framework, in this process.

    startup: imports and networks; prepare: files to graph; sample: ``samples`` ranked poses of one complex that is read
    already (parts prior, denoising, confidence); train: one step on ``copies`` copies at the quantiles of the training
    times (parts data, forward, backward, optimiser), mean of ``steps`` steps after one to warm up.
    """
    raise RequestError(f"the docking domain has no pipeline yet, so '{options.command}' cannot be measured")


def own_main(arguments: list[str]) -> None:
    """The process of one measurement of ours."""
    parser = argparse.ArgumentParser(prog="benchmarks.docking _ours")
    parser.add_argument("command", choices=["startup", "prepare", "sample", "train"])
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--complex", type=Path, default=COMPLEX)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    print(json.dumps(asdict(run_ours(options))))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), help=f"of {', '.join(CASES)} (all)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of every process")
    parser.add_argument("--complex", type=Path, default=COMPLEX, help="folder with protein.pdb and ligand.sdf")
    parser.add_argument("--peer", default="", help="command line of a program to compare with")
    parser.add_argument("-o", "--out", type=Path, help="folder for docking.md and docking.json")
    options = parser.parse_args(arguments)
    options.cases = options.cases.split(",")
    unknown = set(options.cases) - CASES.keys()
    if unknown or options.rounds < 1:
        parser.error(f"unknown case '{min(unknown)}'" if unknown else "at least one round is needed")
    return options


def main(arguments: list[str]) -> int:
    """Exit status: 1 where a measurement failed, after the table of those before it."""
    if arguments[:1] == ["_ours"]:
        try:
            own_main(arguments[1:])
        except DiscoError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        return 0
    options = parse(arguments)
    results: list[Result] = []
    status = 0
    try:
        for name in options.cases:
            results.append(compare(CASES[name], tuple(shlex.split(options.peer)), options))
    except DiscoError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    if results:
        report(results, options)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
