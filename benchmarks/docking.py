"""What docking costs: start-up, reading a complex, ranked poses, a training step; beside a peer's, where one is given.

    python -m benchmarks.docking [--cases start,sample-10] [--rounds 2] [--peer COMMAND] [-o FOLDER]

Every measurement is a process of its own that prints one line of JSON: ``cpu`` (user + system seconds of all threads),
``wall`` (seconds), ``peak_mb`` (resident, of the whole process) and ``parts`` (CPU seconds by name). COMMAND is a
program that takes the arguments of a case (``sample --samples 10 --steps 20 --complex DIR --seed 0``) and prints such a
line; both sides run in turns. Compare CPU seconds: wall suffers from other processes.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.docking_costs import COMPLEX
from benchmarks.measurement import Measurement, run_command
from core.config_file import load_config
from core.convert import convert
from core.errors import DiscoError
from core.pipeline import Pipeline
from core.registry import get_domain

OWN = (sys.executable, "-m", "benchmarks.docking_costs")
ROOT = Path(__file__).parents[1]
# The published networks, with the confidence model, under random weights where no checkpoints are given.
PUBLISHED = ("model.confidence={}",)


@dataclass(frozen=True)
class Case:
    """One kind of measurement. units: what ``cpu`` is divided by in the table (samples; steps are divided already)."""

    name: str
    arguments: tuple[str, ...]
    units: int
    unit: str


_ALL = (
    Case("start", ("startup",), 1, "start"),
    Case("prepare", ("prepare",), 1, "complex"),
    Case("sample-10", ("sample", "--samples", "10", "--steps", "20"), 10, "sample"),
    Case("sample-40", ("sample", "--samples", "40", "--steps", "20"), 40, "sample"),
    Case("train", ("train", "--copies", "8", "--steps", "3"), 1, "step"),
)
CASES = {case.name: case for case in _ALL}


@dataclass(frozen=True)
class Result:
    """Measurements of one case; peer is empty where none was given, else as long as ours."""

    case: Case
    ours: list[Measurement]
    peer: list[Measurement]


def compare(case: Case, model: Path, peer: tuple[str, ...], options: argparse.Namespace) -> Result:
    """Ours (a model folder) and the peer's in turns."""
    result, own = Result(case, [], []), (*OWN, "--model", str(model))
    for number in range(options.rounds):
        arguments = (*case.arguments, "--complex", str(options.complex), "--seed", str(number))
        for name, command, found in (("ours", own, result.ours), ("peer", peer, result.peer)):
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
            peer = ratio = ""
            if result.peer:
                peer = f"{statistics.median(map(quantity, result.peer)):.4g}"
                ratios = [quantity(b) / quantity(a) for a, b in zip(result.ours, result.peer, strict=True)]
                ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            lines.append(f"| {result.case.name} | {name} | {ours:.4g} | {peer} | {ratio} |")
    return "\n".join(lines)


def _quantities(result: Result) -> dict[str, Callable[[Measurement], float]]:
    """Rows of a case: what every measurement of both sides has and is above zero."""
    units, unit = result.case.units, result.case.unit
    rows: dict[str, Callable[[Measurement], float]] = {
        f"CPU s per {unit}": lambda m: m.cpu / units,
        f"wall s per {unit}": lambda m: m.wall / units,
        "peak MB": lambda m: m.peak_mb,
    }
    names = dict.fromkeys(name for m in result.ours for name in m.parts)
    rows |= {f"CPU s, {name}": lambda m, name=name: m.parts.get(name, 0.0) for name in names}  # type: ignore[misc]
    return {name: row for name, row in rows.items() if all(row(m) > 0 for m in (*result.ours, *result.peer))}


def report(results: list[Result], options: argparse.Namespace) -> None:
    """Print the table; with ``-o`` write it to docking.md and everything measured to docking.json."""
    print(text := table(results))
    if options.out is None:
        return
    options.out.mkdir(parents=True, exist_ok=True)
    settings = {
        "complex": str(options.complex), "rounds": options.rounds, "threads": options.threads, "peer": options.peer,
        "torch": torch.__version__, "machine": platform.processor() or platform.machine(), "cores": os.cpu_count(),
    }  # fmt: skip
    (options.out / "docking.md").write_text(text + "\n")
    (options.out / "docking.json").write_text(
        json.dumps({"settings": settings, "results": [asdict(r) for r in results]}, indent=1) + "\n"
    )


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), help=f"of {', '.join(CASES)} (all)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of every process")
    parser.add_argument("--complex", type=Path, default=COMPLEX, help="folder with protein.pdb and ligand.sdf")
    parser.add_argument("--weights", type=Path, help="checkpoints of the authors to convert (default: random weights)")
    parser.add_argument("--peer", default="", help="command line of a program to compare with")
    parser.add_argument("-o", "--out", type=Path, help="folder for docking.md and docking.json")
    options = parser.parse_args(arguments)
    options.cases = options.cases.split(",")
    unknown = set(options.cases) - CASES.keys()
    if unknown or options.rounds < 1:
        parser.error(f"unknown case '{min(unknown)}'" if unknown else "at least one round is needed")
    return options


def make_model(weights: Path | None, folder: Path, *overrides: str) -> None:
    """Model folder from checkpoints, or of the published sizes with random weights and settings of its own."""
    if weights is not None:
        convert(weights, folder)
        return
    config = load_config(ROOT / "experiments" / "docking" / "disco-diffdock-s.yaml", (*PUBLISHED, *overrides))
    domain = get_domain("docking")(config)
    torch.manual_seed(0)
    Pipeline(domain, {name: build() for name, build in domain.parts().items()}).save_pretrained(folder)


def main(arguments: list[str]) -> int:
    """Exit status: 1 where a measurement failed, after the table of those before it."""
    options, results = parse(arguments), []
    try:
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "model"
            make_model(options.weights, model)
            for name in options.cases:
                results.append(compare(CASES[name], model, tuple(shlex.split(options.peer)), options))
    except DiscoError as error:
        print(f"error: {error}", file=sys.stderr)
        if not results:
            return 1
    report(results, options)
    return int(len(results) < len(options.cases))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
