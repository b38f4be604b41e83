"""Docking methods compared on the same complexes, in two modes: blind, and with the pocket given.

    python -m benchmarks.docking_table random --mode blind --data FOLDER --table test.csv -o OUT
    python -m benchmarks.docking_table vina --mode pocket --data FOLDER --table test.csv -o OUT [--subset main]
    python -m benchmarks.docking_table model --model DIR --mode blind --data FOLDER --table test.csv -o OUT [--name N]
    python -m benchmarks.docking_table report OUT... -o FOLDER

FOLDER holds a folder with protein and ligand per complex, test.csv has the columns id, subset and no_rec_overlap. Each
method writes OUT/NAME-MODE/ID.json per complex, which is not docked again: a run that was killed goes on when started
once more, and complexes come in the order of a hash of their ids, so it may be cut anywhere. ``report`` writes
table.md, table.json and figure.png.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from benchmarks.docking_table.complexes import Method, read_cases
from benchmarks.docking_table.store import run
from benchmarks.measurement import errors_told
from core.errors import RequestError

PROGRAMS = ("random", "vina", "model")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for program in PROGRAMS:
        each = commands.add_parser(program)
        each.add_argument("--mode", choices=("blind", "pocket"), required=True)
        each.add_argument("--data", type=Path, required=True, help="folder with one folder per complex")
        each.add_argument("--table", type=Path, required=True, help="CSV of the complexes")
        each.add_argument("--subset", default="all", help="main, hard or all")
        each.add_argument("--count", type=int, help="only so many complexes")
        each.add_argument("--name", help="of the method (default: the program's, or the model folder's)")
        each.add_argument("--seed", type=int, default=0)
        each.add_argument("--alone", action="store_true", help="nothing else runs on this machine: times count")
        each.add_argument("--no-checks", action="store_true", help="leave out PoseBusters")
        each.add_argument("--retry", action="store_true", help="dock again what failed")
        each.add_argument("-o", "--out", type=Path, required=True)
        if program != "vina":
            each.add_argument("--poses", type=int, default=40)
        if program == "vina":
            each.add_argument("--exhaustiveness", type=int, default=8)
            each.add_argument("--cpu-limit", type=int, help="CPU seconds of Vina per complex (default: none)")
        if program == "model":
            each.add_argument("--model", type=Path, required=True, help="model folder")
            each.add_argument("--device", default="auto")
            each.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="steps=10, ...")
    report = commands.add_parser("report")
    report.add_argument("folders", type=Path, nargs="+")
    report.add_argument("-o", "--out", type=Path, required=True)
    report.add_argument("--resamples", type=int, default=2000)
    return parser.parse_args(arguments)


def make(options: argparse.Namespace) -> tuple[str, dict[str, Any], Method]:
    """Name, settings and method. Imports what the method needs, and nothing of the others."""
    if options.command == "random":
        from benchmarks.docking_table.random_placement import RandomPlacement

        return "random", {"poses": options.poses, "seed": options.seed}, RandomPlacement(options.poses, options.seed)
    if options.command == "vina":
        from benchmarks.docking_table.vina import VinaDocking

        settings = {"exhaustiveness": options.exhaustiveness, "seed": options.seed}
        return "vina", settings, VinaDocking(**settings, cpu_limit=options.cpu_limit)
    from benchmarks.docking_table.model import ModelDocking

    pairs = [pair.partition("=") for pair in options.option]
    if any(not separator for _, separator, _ in pairs):
        raise RequestError(f"--option {options.option}: give NAME=VALUE")
    settings = {name: value for name, _, value in pairs}
    model = ModelDocking(options.model, options.poses, options.seed, options.device, settings)
    return model.pipeline.name, model.about, model


@errors_told
def main(arguments: list[str]) -> int:
    options = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.command == "report":
        from benchmarks.docking_table.render import write
        from benchmarks.docking_table.report import entries, read_runs

        runs = read_runs(options.folders)
        write(options.out, runs, list(entries(runs, options.resamples)), options.resamples)
        return 0
    cases = read_cases(options.data, options.table, options.subset)[: options.count]
    name, settings, method = make(options)
    about = {"program": options.command, "settings": settings, "alone": options.alone}
    run(options.out / f"{options.name or name}-{options.mode}", about, cases, method, options.mode,
        not options.no_checks, options.retry)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
