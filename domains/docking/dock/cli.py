"""``disco dock``: the command."""

import json
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from core.console import Device, Overrides, Quiet, say, sigterm_interrupts, start_logging, this_command
from core.errors import RequestError
from domains.docking.dock import options as o

INPUTS = ("protein", "ligand", "csv", "name", "template", "out")
SETTINGS = (
    "poses", "steps", "sampler", "guidance", "seed", "batch_size", "pocket", "margin", "radius", "center", "size",
    "check", "minimize", "rescore", "trajectory",
)  # fmt: skip


def dock(
    overrides: Overrides = None,
    protein: o.Protein = None,
    ligand: o.Ligand = None,
    csv: o.Table = None,
    out: o.Out = Path("docked"),
    name: o.Name = None,
    template: o.Template = None,
    model: o.Model = None,
    poses: o.Poses = None,
    steps: o.Steps = None,
    sampler: o.Sampler = None,
    guidance: o.Guidance = None,
    seed: o.Seed = None,
    pocket: o.Pocket = None,
    margin: o.Margin = None,
    center: o.Center = None,
    size: o.Size = None,
    radius: o.Radius = None,
    check: o.Check = None,
    minimize: o.Minimize = None,
    rescore: o.Rescore = None,
    trajectory: o.Trajectory = None,
    batch_size: o.BatchSize = None,
    workers: o.Workers = None,
    config: o.Config = None,
    overwrite: o.Overwrite = False,
    dry_run: o.DryRun = False,
    report: o.Report = True,
    as_json: o.Json = False,
    device: Device = "auto",
    quiet: Quiet = False,
    center_x: o.CenterX = None,
    center_y: o.CenterY = None,
    center_z: o.CenterZ = None,
    size_x: o.SizeX = None,
    size_y: o.SizeY = None,
    size_z: o.SizeZ = None,
) -> None:
    """Dock ligands into proteins: ranked poses with confidence, checks and a report.

    A run that was stopped goes on with the same command. Exit code: 0 all docked, 3 some, 1 none.
    """
    given = _given(locals())
    start_logging(quiet)
    with _stoppable(out):
        command = _command(given, config)
        if dry_run:
            summary = command.check_inputs(quiet)
        else:
            summary = command.dock(model, tuple(overrides or ()), device, workers, overwrite, report, quiet)
    if as_json:
        typer.echo(json.dumps(summary.as_dict(out), allow_nan=False))
    raise typer.Exit(summary.exit_code)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """What of inputs and settings was given; Vina's and gnina's --center_x, --size_x ... among it."""
    found = {name: options[name] for name in (*INPUTS, *SETTINGS) if options[name] not in (None, [])}
    for what in ("center", "size"):
        values = tuple(options[f"{what}_{axis}"] for axis in "xyz")
        if None not in values:
            found[what] = values
        elif any(value is not None for value in values):
            raise RequestError(f"--{what}_x, --{what}_y and --{what}_z belong together: give all three")
    return found


def _command(given: Mapping[str, Any], config: Path | None) -> Any:
    from core.registry import get_domain

    get_domain("docking")  # says which packages are missing
    from domains.docking.dock.command import Command

    inputs = {name: value for name, value in given.items() if name in INPUTS}
    return Command.of({name: value for name, value in given.items() if name in SETTINGS}, config, **inputs)


@contextmanager
def _stoppable(out: Path) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop the run and print how to go on."""
    try:
        with sigterm_interrupts():
            yield
    except KeyboardInterrupt as interrupt:
        # Once the run has begun, --overwrite would dock everything again.
        again = this_command("--overwrite" if getattr(interrupt, "begun", False) else "")
        said = f"what is docked is in {out}" if out.exists() else "nothing is docked yet"
        say(f"stopped; {said}. Go on with:\n  {again}")
        raise typer.Exit(128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)) from interrupt
