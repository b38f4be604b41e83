"""The table of a test set as Markdown or JSON, and the curves beside it."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
from matplotlib.figure import Figure

from core.plots import COLOURS, new_figure
from domains.docking.metrics.contacts import CLASH
from domains.docking.metrics.table import LABELS, ComplexResult, Interval, Order, Summary, most_poses, success_curve


def to_markdown(summary: Summary) -> str:
    """A Markdown table with intervals, and its notes."""
    cells = _cells(summary)
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join(
        [lines[0], "|" + " --- |" * len(cells[0]), *lines[1:], "", *(f"- {note}" for note in _notes(summary))]
    )


def to_json(summary: Summary) -> str:
    """Everything, as strict JSON: what is not finite (a quartile with too many misses) is null."""
    return json.dumps(_strict(asdict(summary)), indent=1, allow_nan=False)


def plot(models: Mapping[str, Sequence[ComplexResult]], limit: float = 10.0) -> Figure:
    """Success against the RMSD threshold (top-1), and success under 2 A against the number of poses considered.

    One colour per model; solid lines are ranked by confidence where there is one, dashed ones are random poses.
    """
    figure, (curve, top) = new_figure(columns=2)
    thresholds = np.linspace(0, limit, 101)
    for index, (name, results) in enumerate(models.items()):
        orders: list[Order] = ["random"]
        if any(each.confidence is not None for each in results):
            orders.append("confidence")
        counts = range(1, most_poses(results) + 1)
        for order in orders:
            colour, line = COLOURS[index % len(COLOURS)], "--" if order == "random" else "-"
            label = f"{name}, {order}"
            curve.plot(
                thresholds, success_curve(results, order, 1, thresholds), label=label, color=colour, linestyle=line
            )
            best = [success_curve(results, order, k, np.array([2.0]))[0] for k in counts]
            top.plot(counts, best, label=label, marker=".", color=colour, linestyle=line)
    curve.set(xlabel="RMSD threshold / A", ylabel="% of complexes", ylim=(0, 100), title="Top-1")
    top.set(xlabel="poses considered", ylabel="% with RMSD < 2 A", ylim=(0, 100), title="Best of k")
    curve.legend()
    return figure


def _cells(summary: Summary) -> list[list[str]]:
    """Header and rows as text: columns are the figures that any row has."""
    rows = [(group, row) for group in summary.groups for row in group.rows]
    keys = [key for key in LABELS if any(key in row.figures for _, row in rows)]
    cells = [["complexes", "poses", "top", *(LABELS[key] for key in keys), "seconds"]]
    for group, row in rows:
        figures = [_text(row.figures.get(key)) for key in keys]
        cells.append([f"{group.name} ({group.complexes})", row.order, row.top, *figures, _text(group.seconds)])
    return cells


def _text(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    return f"{interval.value:.1f} [{interval.low:.1f}, {interval.high:.1f}]"


def _notes(summary: Summary) -> list[str]:
    counts = [
        f"{group.name}: {group.complexes} complexes, {group.failures} failed, {group.unmeasured} poses without RMSD"
        " (all counted as misses)"
        for group in summary.groups
    ]
    checked = any("valid" in row.figures for group in summary.groups for row in group.rows)
    counts += [
        f"{group.name}: PoseBusters could check no pose of {group.unchecked} complexes (left out of its columns)"
        for group in summary.groups
        if checked and group.unchecked
    ]
    missing = [] if any(group.name == "unseen" for group in summary.groups) else ["no complex has an unseen receptor"]
    about = (
        f"[95 % percentile bootstrap over complexes, {summary.resamples} resamples, seed {summary.seed}]; Angstrom; "
        "random: mean over all subsets of k poses; confidence: the k ranked highest; "
        f"clash and self-intersection: under {CLASH} A, among the poses measured"
    )
    return [*counts, *missing, about]


def _strict(tree: object) -> object:
    if isinstance(tree, Mapping):
        return {key: _strict(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_strict(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
