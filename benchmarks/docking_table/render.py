"""The table as Markdown and JSON, and its figure."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.docking_table.published import MARK, NOTES, PUBLISHED
from benchmarks.docking_table.report import FIGURES, Band, Entry, Run, bands, curve_of, shared
from core.files import write_text
from core.plots import COLOURS, new_figure, save_figure
from domains.docking.metrics.table import Interval, success_curve

MODES = {
    "blind": "the whole protein is given, and no site",
    "pocket": "the site is given as the surroundings of the crystal ligand: for models all residues within 10 A of it, "
    "for Vina a box of its extent + 10 A, at least 20 A",
}
BARS = ("top-1 % < 2 A", "top-5 % < 2 A", "% < 2 A and valid")


def write(out: Path, runs: Sequence[Run], lines: Sequence[Entry], resamples: int) -> None:
    """OUT/table.md, OUT/table.json and OUT/figure.png. Raises StorageError."""
    write_text(out / "table.md", markdown(runs, lines, resamples))
    record = {
        "resamples": resamples, "methods": {run.name: run.about for run in runs},
        "entries": [_strict(asdict(line)) for line in lines],
        "confidence": [asdict(band) for run in runs for band in bands(run)],
        "published": {"mark": MARK, "notes": NOTES, "rows": [asdict(row) for row in PUBLISHED]},
    }  # fmt: skip
    write_text(out / "table.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
    save_figure(draw(runs, lines), out / "figure.png")


def markdown(runs: Sequence[Run], lines: Sequence[Entry], resamples: int) -> str:
    """Everything in words: a table per mode and group, failures, how it was measured, and what is published."""
    parts = ["# Docking methods compared"]
    for mode in dict.fromkeys(line.mode for line in lines):
        parts.append(f"## {mode}: {MODES.get(mode, '')}")
        for group in dict.fromkeys(line.group for line in lines if line.mode == mode):
            chosen = [line for line in lines if (line.mode, line.group) == (mode, group)]
            parts += [f"### {mode}, {group}", _table(_cells(chosen))]
    confidence = [band for run in runs for band in bands(run)]
    if confidence:
        parts += ["## Confidence of the first pose", _table(_bands(confidence))]
    parts += ["## Failures", "\n".join(_failures(lines)), "## How it was measured"]
    parts.append("\n".join(f"- {note}" for note in _notes(runs, resamples)))
    parts += ["## Published", f"**{MARK}**", _table(_published())]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in NOTES)]) + "\n"


def draw(runs: Sequence[Run], lines: Sequence[Entry]) -> Figure:
    """A row per mode, over the complexes that all its methods have: share of complexes under every RMSD, and success
    with 95 % intervals."""
    modes = list(dict.fromkeys(run.mode for run in runs))
    figure, axes = new_figure(columns=2, rows=len(modes), size=(6.4, 4.0))
    for row, mode in enumerate(modes):
        names = shared(runs, mode)
        group = "shared" if any(line.mode == mode and line.group == "shared" for line in lines) else "all"
        chosen = [line for line in lines if line.mode == mode and line.group == group]
        if names:
            _curves(axes[2 * row], [run for run in runs if run.mode == mode], names)
            axes[2 * row].set(title=f"{mode}, top-1, {len(names)} complexes")
        _bars(axes[2 * row + 1], chosen)
        axes[2 * row + 1].set(title=f"{mode}, {group}, 95 % intervals")
    return figure


def _curves(axis: Axes, runs: Sequence[Run], names: frozenset[str], limit: float = 10.0) -> None:
    thresholds = np.linspace(0, limit, 201)
    for number, run in enumerate(runs):
        results, order = curve_of(run, names), "confidence" if run.ranked else "random"
        values = success_curve(results, order, 1, thresholds)  # type: ignore[arg-type]
        axis.plot(thresholds, values, label=run.name, color=COLOURS[number % len(COLOURS)])
    axis.set(xlabel="RMSD / A", ylabel="% of complexes", ylim=(0, 100), xlim=(0, limit))
    axis.legend(fontsize=7)


def _bars(axis: Axes, lines: Sequence[Entry]) -> None:
    """Groups of bars by figure, one bar per line."""
    width = 0.8 / max(1, len(lines))
    for number, line in enumerate(lines):
        known = [(at, line.figures[name]) for at, name in enumerate(BARS) if name in line.figures]
        x = [at + (number - (len(lines) - 1) / 2) * width for at, _ in known]
        height = [figure.value for _, figure in known]
        spread = [[f.value - f.low for _, f in known], [f.high - f.value for _, f in known]]
        colour, label = COLOURS[number % len(COLOURS)], f"{line.method} ({line.order})"
        axis.bar(x, height, width, yerr=np.maximum(spread, 0), label=label, color=colour, capsize=2, alpha=0.85)
    axis.set(xticks=range(len(BARS)), ylabel="% of complexes", ylim=(0, 100))
    axis.set_xticklabels(BARS)
    axis.legend(fontsize=7)


def _cells(lines: Sequence[Entry]) -> list[list[str]]:
    cells = [["method", "pose", "complexes (failed)", *FIGURES, "median wall s", "median CPU s"]]
    for line in lines:
        figures = [_text(line.figures.get(name)) for name in FIGURES]
        count = f"{line.complexes} ({sum(line.failures.values())})"
        cells.append([line.method, line.order, count, *figures, _number(line.wall), _number(line.cpu)])
    return cells


def _bands(lines: Sequence[Band]) -> list[list[str]]:
    cells = [["method", "confidence", "complexes", "< 2 A expected", "< 2 A", "< 5 A"]]
    for line in lines:
        counts = (line.complexes, f"{line.expected:.1f}", line.below_2, line.below_5)
        cells.append([line.method, line.word, *map(str, counts)])
    return cells


def _published() -> list[list[str]]:
    cells = [["method", "mode", "top-1 % < 2 A", "median top-1 A", "top-5 % < 2 A", "unseen, top-1 % < 2 A", "s"]]
    for row in PUBLISHED:
        figures = (row.top1, row.median, row.top5, row.unseen, row.seconds)
        cells.append([row.method, row.mode, *("-" if figure is None else f"{figure:g}" for figure in figures)])
    return cells


def _table(cells: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + " --- |" * len(cells[0]), *lines[1:]])


def _failures(lines: Sequence[Entry]) -> Iterator[str]:
    """One line per method and reason, over all complexes."""
    seen = {(line.method, reason): count for line in lines if line.group == "all"
            for reason, count in line.failures.items()}  # fmt: skip
    for (method, reason), count in seen.items():
        yield f"- {method}: {count} x {' '.join(reason.split())}"
    if not seen:
        yield "None."


def _notes(runs: Sequence[Run], resamples: int) -> Iterator[str]:
    yield (
        f"[95 % percentile bootstrap over complexes, {resamples} resamples]. RMSD: heavy atoms, symmetry-corrected, in "
        "the frame of the protein. A failure is a miss, and not valid."
    )
    yield (
        "ranked: top-k by the method's own ranking; random pose: the mean over all choices of k poses; oracle: the best"
        " of all poses. Methods give different numbers of poses, so oracles do not compare."
    )
    yield "Validity (PoseBusters) is that of the first pose; complexes that it could not check are left out there."
    yield (
        "Groups: all that the method tried; shared: what all methods of the mode tried; main and hard (peptides, "
        "large, covalent or incomplete ligands); unseen: receptors that the published models were not trained on."
    )
    timed = "; ".join(
        f"{run.name}: {'run alone' if run.about.get('alone') else 'load of the machine not controlled'}" for run in runs
    )
    yield f"Seconds per complex, from the files to the poses: wall, and CPU of all processes. {timed}."
    for run in runs:
        settings = ", ".join(f"{name} {value}" for name, value in run.about.get("settings", {}).items())
        yield f"{run.name}: {run.about.get('program')}, {settings}"


def _text(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.value:.1f} [{interval.low:.1f}, {interval.high:.1f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _strict(tree: Any) -> Any:
    """For JSON: what is not finite as null."""
    if isinstance(tree, dict):
        return {key: _strict(value) for key, value in tree.items()}
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
