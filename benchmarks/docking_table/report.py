"""From the records of all methods to the figures of the table."""

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from benchmarks.docking_table.store import ABOUT, Record
from core.errors import DataError, RequestError
from domains.docking.dock.flags import BANDS, band
from domains.docking.metrics.table import ComplexResult, Interval, Order, Row, Summary, summarise

# Figures of the table: what is shown, the pose it is of, and its key in ``metrics.table.LABELS``.
FIGURES = {
    "top-1 % < 2 A": ("1", "rmsd_below_2"), "top-1 % < 5 A": ("1", "rmsd_below_5"),
    "top-5 % < 2 A": ("5", "rmsd_below_2"), "top-5 % < 5 A": ("5", "rmsd_below_5"),
    "oracle % < 2 A": ("oracle", "rmsd_below_2"), "oracle % < 5 A": ("oracle", "rmsd_below_5"),
    "median top-1 A": ("1", "rmsd_median"), "% centroid < 2 A": ("1", "centroid_below_2"),
    "% PB-valid": ("first", "valid"), "% < 2 A and valid": ("first", "rmsd_below_2_and_valid"),
}  # fmt: skip
ORDERS: dict[Order, str] = {"confidence": "ranked", "random": "random pose"}
GROUPS = ("all", "shared", "main", "hard", "unseen")


@dataclass(frozen=True)
class Run:
    """One method in one mode: what it is (``method.json``), and its records."""

    name: str
    about: Mapping[str, Any]
    records: tuple[Record, ...]

    @property
    def mode(self) -> str:
        return str(self.about["mode"])

    @property
    def ranked(self) -> bool:
        return any(record.ranked for record in self.records)


@dataclass(frozen=True)
class Entry:
    """One line of the table. order: of ``ORDERS``; unchecked: complexes whose validity is not known; failures: by
    reason; wall, cpu: median seconds per complex that has poses, from the files to the poses."""

    method: str
    mode: str
    group: str
    order: str
    complexes: int
    unchecked: int
    failures: Mapping[str, int]
    figures: Mapping[str, Interval]
    wall: float | None
    cpu: float | None


@dataclass(frozen=True)
class Band:
    """First poses of a method whose confidence ``disco dock`` calls ``word``: how many, of which ``expected`` are right
    if confidence is the logit of a probability, and how many are, below 2 Angstrom and below 5."""

    method: str
    word: str
    complexes: int
    expected: float
    below_2: int
    below_5: int


def bands(run: Run) -> list[Band]:
    """What the confidence of the first pose is worth, for a model that ranks: a line for every band."""
    if not run.ranked or run.about.get("program") != "model":
        return []
    known = [(r.scores[0], r.rmsd[0]) for r in run.records if r.failure is None and r.scores]
    first = np.array(known, dtype=float).reshape(-1, 2)
    words = np.array([band(confidence) for confidence in first[:, 0]])
    lines = []
    for word in BANDS:
        confidence, rmsd = first[words == word].T
        expected = float(expit(confidence).sum())
        lines.append(Band(run.name, word, len(rmsd), expected, int((rmsd < 2).sum()), int((rmsd < 5).sum())))
    return lines


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Methods of the folders OUT/METHOD, in the order given, then by name. Raises DataError for none, damaged records,
    or two of one name."""
    runs = [_read_run(path.parent) for folder in folders for path in sorted(folder.glob(f"*/{ABOUT}"))]
    runs = [run for run in runs if run.records]
    if not runs:
        raise DataError(f"no results in {', '.join(map(str, folders))}: give folders that hold METHOD/{ABOUT}")
    name, count = Counter(run.name for run in runs).most_common(1)[0]
    if count > 1:
        raise DataError(f"{count} methods are named {name}: rename their folders")
    return runs


def _read_run(folder: Path) -> Run:
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    paths = sorted(path for path in folder.glob("*.json") if path.name != ABOUT)
    return Run(folder.name, about, tuple(Record.read(path) for path in paths))


def shared(runs: Sequence[Run], mode: str) -> frozenset[str]:
    """Complexes that every method of a mode has tried."""
    return frozenset.intersection(*(frozenset(r.name for r in run.records) for run in runs if run.mode == mode))


def entries(runs: Sequence[Run], resamples: int = 2000, seed: int = 0) -> Iterator[Entry]:
    """Lines by mode, group and method; those of a model that ranks also say what a random pose of it is worth.

    Groups without a complex are left out, and ``shared`` where it is all. Intervals: 95 %, bootstrap over complexes.
    """
    for mode in sorted({run.mode for run in runs}):
        common = shared(runs, mode)
        for group in GROUPS:
            for run in (run for run in runs if run.mode == mode):
                chosen = [record for record in run.records if _is_in(record, group, common)]
                several = any(len(each.records) > len(common) for each in runs if each.mode == mode)
                if not chosen or (group == "shared" and not several):
                    continue
                orders: list[Order] = ["confidence"] if run.ranked else ["random"]
                if run.ranked and run.about.get("program") == "model":
                    orders.append("random")
                for order in orders:
                    yield entry(run, group, chosen, order, resamples, seed)


def _is_in(record: Record, group: str, common: frozenset[str]) -> bool:
    choices = {"all": True, "shared": record.name in common, "unseen": record.unseen}
    return choices.get(group, record.subset == group)


def entry(run: Run, group: str, records: Sequence[Record], order: Order, resamples: int, seed: int = 0) -> Entry:
    """One line. Validity is that of the first pose: the best ranked, or, where nothing ranks them, a random one."""
    results = [as_result(record) for record in records]
    figures = _figures(summarise(results, seed, resamples), order)
    if order == "confidence" or not run.ranked:
        first = summarise([_first(result, record) for result, record in zip(results, records, strict=True)], seed,
                          resamples)  # fmt: skip
        figures |= _chosen(first.row("full", "random", "1"), "first")
    done = [record for record in records if record.failure is None]
    return Entry(
        run.name, run.mode, group, ORDERS[order], len(records), sum(record.valid is None for record in done),
        dict(Counter(record.failure for record in records if record.failure is not None)), figures,
        _median([record.wall for record in done]), _median([record.cpu for record in done]),
    )  # fmt: skip


def as_result(record: Record) -> ComplexResult:
    """A record as ``metrics.table`` takes it, with its ranks in the place of confidences; validity left out."""
    if record.failure is not None:
        return ComplexResult.failed(record.name, False, record.failure)
    ranks = -np.arange(len(record.rmsd), dtype=float) if record.ranked else None
    known = (record.rmsd, record.centroid, record.protein_distance, record.self_distance)
    rmsd, centroid, protein, own = (np.array(values, dtype=float) for values in known)
    return ComplexResult(record.name, rmsd, centroid, protein, own, ranks, False)


def _first(result: ComplexResult, record: Record) -> ComplexResult:
    """The first pose alone, with its validity."""
    if result.failure is not None:
        return result
    alone = {name: getattr(result, name)[:1] for name in ("rmsd", "centroid", "min_protein_distance",
                                                          "min_self_distance")}  # fmt: skip
    return replace(result, **alone, confidence=None, valid=None if record.valid is None else np.array([record.valid]))


def _figures(summary: Summary, order: Order) -> dict[str, Interval]:
    found: dict[str, Interval] = {}
    for row in summary.groups[0].rows:
        if row.order in (order, "all"):
            found |= _chosen(row, row.top)
    return found


def _chosen(row: Row, top: str) -> dict[str, Interval]:
    """Figures of the table that a row has."""
    return {name: row.figures[key] for name, (at, key) in FIGURES.items() if at == top and key in row.figures}


def _median(seconds: Sequence[float | None]) -> float | None:
    known = [value for value in seconds if value is not None and math.isfinite(value)]
    return statistics.median(known) if known else None


def curve_of(run: Run, names: frozenset[str]) -> list[ComplexResult]:
    """Results on some complexes. Raises RequestError where the method has none of them."""
    chosen = [as_result(record) for record in run.records if record.name in names]
    if not chosen:
        raise RequestError(f"{run.name} has none of these complexes")
    return chosen
