"""From the poses of every complex to the figures of a table like Table 4 of the paper, with bootstrap intervals.

Every figure is an average over complexes of the expected value for ONE selected pose per complex. A selection is a set
of weights over the poses of a complex (``selection_weights``), so success, quartiles, centroids and clashes of one row
all speak of the same poses:

- ``random`` top-k: the pose of least RMSD among k poses drawn at random without replacement, averaged over all subsets
  in closed form. With m of P poses under 2 A its success is 1 - C(P-m, k)/C(P, k): unbiased whatever their order.
- ``confidence`` top-k: the best of the k poses of highest confidence.
- ``oracle``: the best of all poses.

A complex that failed, or a pose whose RMSD could not be found (NaN), is a miss in every percentage of success and
infinitely far in every quartile (the authors write 10,000 A). Clashes are shares of the poses that were measured, so a
failed complex has no say in them; it is never PB-valid. A complex whose poses PoseBusters could not check says nothing
about validity.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from core.errors import DataError, RequestError
from domains.docking.metrics.contacts import CLASH

Order = Literal["random", "confidence"]
TOP = (1, 5, 10)
QUARTILES = {"rmsd_p25": 0.25, "rmsd_median": 0.5, "rmsd_p75": 0.75}
LABELS = {
    "rmsd_below_2": "% RMSD < 2", "rmsd_below_5": "% RMSD < 5", "rmsd_p25": "25 %", "rmsd_median": "median",
    "rmsd_p75": "75 %", "centroid_below_2": "% centroid < 2", "centroid_below_5": "% centroid < 5",
    "steric_clash": "% clash", "self_intersection": "% self-intersecting", "valid": "% PB-valid",
    "rmsd_below_2_and_valid": "% RMSD < 2 and valid",
}  # fmt: skip
ROWS_AT_ONCE = 250  # resamples whose quartiles are found together: bounds memory


@dataclass(frozen=True)
class ComplexResult:
    """All poses of one complex, in the order sampled.

    ``rmsd`` [P] symmetry-corrected, Angstrom, NaN where it could not be found; ``centroid`` [P] distance of centroids;
    ``min_protein_distance``, ``min_self_distance`` [P] Angstrom; ``confidence`` [P], higher is better, or None;
    ``unseen``: the receptor is not in the training set; ``seconds`` for all poses; ``failure``: why the complex failed
    altogether (poses are ignored then), or None; ``valid`` [P]: PoseBusters, or None where it was not or could not be
    run;
    ``problems``: what could not be measured on single poses and why.
    Raises DataError for unequal lengths, or no poses without a failure.
    """

    name: str
    # The lengths are compared below, with an error that names the complex.
    rmsd: Float[np.ndarray, " _"]
    centroid: Float[np.ndarray, " _"]
    min_protein_distance: Float[np.ndarray, " _"]
    min_self_distance: Float[np.ndarray, " _"]
    confidence: Float[np.ndarray, " _"] | None
    unseen: bool
    seconds: float | None = None
    failure: str | None = None
    valid: Bool[np.ndarray, " _"] | None = None
    problems: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        arrays = (self.centroid, self.min_protein_distance, self.min_self_distance, self.confidence, self.valid)
        lengths = {len(array) for array in (self.rmsd, *arrays) if array is not None}
        if len(lengths) > 1:
            raise DataError(f"{self.name}: every figure needs one value per pose, not {sorted(lengths)} values")
        if self.failure is None and len(self.rmsd) == 0:
            raise DataError(f"{self.name}: no poses and no failure; say in `failure` why there are none")

    @classmethod
    def failed(cls, name: str, unseen: bool, failure: str, seconds: float | None = None) -> "ComplexResult":
        """A complex without poses."""
        none = np.empty(0)
        return cls(name, none, none, none, none, None, unseen, seconds, failure)


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % percentile-bootstrap interval over complexes (NaN where no resample had the figure)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """Figures (keys of ``LABELS``) of one selection; ``top`` is "1", "5", "10" or "oracle"."""

    order: str
    top: str
    figures: Mapping[str, Interval]


@dataclass(frozen=True)
class Group:
    """Rows over all complexes (``full``) or those with receptors not trained on (``unseen``).

    ``failures`` complexes gave no poses; ``unmeasured`` poses of the others have no RMSD. Both count as misses.
    ``unchecked`` complexes have poses without validity: they are left out of its figures.
    ``seconds``: mean over the complexes that were timed, None if none was.
    """

    name: str
    complexes: int
    failures: int
    unmeasured: int
    unchecked: int
    seconds: Interval | None
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Summary:
    """``groups``: full, then unseen unless no receptor is unseen."""

    groups: tuple[Group, ...]
    resamples: int
    seed: int

    def row(self, group: str, order: str, top: str) -> Row:
        """One row; raises RequestError naming what there is."""
        rows = {(g.name, row.order, row.top): row for g in self.groups for row in g.rows}
        if (group, order, top) not in rows:
            there = ", ".join("/".join(key) for key in rows)
            raise RequestError(f"no row {group}/{order}/{top} in this summary: it has {there}")
        return rows[group, order, top]


def selection_weights(
    rmsd: Float[np.ndarray, " p"], confidence: Float[np.ndarray, " p"] | None, order: Order, k: int
) -> Float[np.ndarray, " p"]:
    """Chance [P] that each pose is the one selected (see the module). With fewer than k poses all are used.

    NaN comes last in RMSD and in confidence; equal RMSD share their chance; equal confidence goes by sampling order.
    """
    count = len(rmsd)
    k = min(k, count)
    distance = np.where(np.isnan(rmsd), np.inf, rmsd)
    if order == "random" or k == count:
        return _best_of_random(distance, k)
    if confidence is None:
        raise RequestError("ordering by confidence needs a confidence for every pose: rank the poses or use `random`")
    ranking = np.argsort(-np.where(np.isnan(confidence), -np.inf, confidence), kind="stable")
    weights = np.zeros(count)
    weights[ranking[:k]] = _best_of_random(distance[ranking[:k]], k)
    return weights


def _best_of_random(distance: np.ndarray, k: int) -> np.ndarray:
    """P(rank i is the least of k) = C(P-1-i, k-1)/C(P, k), shared among equal distances."""
    count = len(distance)
    chance = np.array([math.comb(count - 1 - rank, k - 1) / math.comb(count, k) for rank in range(count)])
    _, level = np.unique(distance, return_inverse=True)
    total = np.bincount(level, weights=chance[np.argsort(np.argsort(distance, kind="stable"))])
    return (total / np.bincount(level))[level]


def summarise(results: Sequence[ComplexResult], seed: int = 0, resamples: int = 10000) -> Summary:
    """Every figure of the table with its interval.

    Complexes are resampled with replacement, the same ones for every figure of a group, in the order of their names:
    the result does not depend on the order given, and two models on the same complexes meet the same resamples.
    Quartiles are the least RMSD at which the distribution reaches 25, 50, 75 %; inf where too many complexes failed.
    Percentile intervals shrink to a point for a share of exactly 0 or 100 %: that is no certainty.
    Raises DataError for two complexes of one name, or confidence on some only; RequestError for no complex or no
    resample.
    """
    if resamples < 1:
        raise RequestError(f"{resamples} resamples give no interval: ask for at least 1, for a table thousands")
    ordered = _checked(results)
    kinds: list[Order] = ["random"]
    if any(each.confidence is not None for each in ordered):
        kinds.append("confidence")
    groups = [_group("full", ordered, kinds, seed, resamples)]
    if unseen := [each for each in ordered if each.unseen]:
        groups.append(_group("unseen", unseen, kinds, seed, resamples))
    return Summary(tuple(groups), resamples, seed)


def _checked(results: Sequence[ComplexResult]) -> list[ComplexResult]:
    if not results:
        raise RequestError("no complexes to summarise")
    ordered = sorted(results, key=lambda each: each.name)
    for first, second in pairwise(ordered):
        if first.name == second.name:
            raise DataError(f"two results are named {first.name}: give every complex a name of its own")
    done = [each for each in ordered if each.failure is None]
    missing = [each.name for each in done if each.confidence is None]
    if missing and len(missing) < len(done):
        raise DataError(
            f"{len(missing)} complexes have no confidence ({missing[0]}, ...) but others have: give it for all or none"
        )
    return ordered


def most_poses(results: Sequence[ComplexResult]) -> int:
    """Most poses of any complex that has some."""
    return max((len(each.rmsd) for each in results if each.failure is None), default=1)


def _group(name: str, results: Sequence[ComplexResult], kinds: Sequence[Order], seed: int, resamples: int) -> Group:
    count, most = len(results), most_poses(results)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples).astype(float)
    rows = [_row(results, order, k, str(k), draws) for order in kinds for k in TOP if k <= most]
    rows.append(_row(results, kinds[0], most, "oracle", draws))
    times = np.array([np.nan if each.seconds is None else each.seconds for each in results])
    timed = _mean_interval(np.nan_to_num(times), np.isfinite(times).astype(float), draws)
    failures = sum(each.failure is not None for each in results)
    unmeasured = sum(int(np.isnan(each.rmsd).sum()) for each in results if each.failure is None)
    unchecked = sum(each.valid is None for each in results if each.failure is None)
    return Group(name, count, failures, unmeasured, unchecked, timed, tuple(rows))


def _row(results: Sequence[ComplexResult], order: Order, k: int, top: str, draws: np.ndarray) -> Row:
    weights = [_weights(each, order, k) for each in results]
    figures = _quartiles(results, weights, draws)
    shares = [_shares(each, weight) for each, weight in zip(results, weights, strict=True)]
    for key in shares[0]:
        numerator, denominator = np.array([share[key] for share in shares]).T
        if found := _mean_interval(numerator, denominator, draws):
            figures[key] = Interval(100 * found.value, 100 * found.low, 100 * found.high)
    if all(each.valid is None for each in results):
        for key in ("valid", "rmsd_below_2_and_valid"):  # not run at all: failures alone are no figure
            figures.pop(key, None)
    return Row("all" if top == "oracle" else order, top, {key: figures[key] for key in LABELS if key in figures})


def _weights(result: ComplexResult, order: Order, k: int) -> np.ndarray:
    if result.failure is not None:
        return np.zeros(len(result.rmsd))
    return selection_weights(result.rmsd, result.confidence, order, k)


def _shares(result: ComplexResult, weights: np.ndarray) -> dict[str, tuple[float, float]]:
    """For every percentage: weight of the poses for which it holds, and of those that could be asked."""
    successes = {
        "rmsd_below_2": result.rmsd < 2, "rmsd_below_5": result.rmsd < 5,
        "centroid_below_2": result.centroid < 2, "centroid_below_5": result.centroid < 5,
    }  # fmt: skip
    asked = float(result.valid is not None or result.failure is not None)
    valid = np.zeros(len(weights), dtype=bool) if result.valid is None else result.valid
    checks = {"valid": valid, "rmsd_below_2_and_valid": (result.rmsd < 2) & valid}
    contacts = {"steric_clash": result.min_protein_distance, "self_intersection": result.min_self_distance}
    return (
        {key: (float(weights @ good), 1.0) for key, good in successes.items()}
        | {key: (float(weights @ good), asked) for key, good in checks.items()}
        | {key: (float(weights @ (near < CLASH)), float(weights @ ~np.isnan(near))) for key, near in contacts.items()}
    )


def _mean_interval(numerator: np.ndarray, denominator: np.ndarray, draws: np.ndarray) -> Interval | None:
    """Ratio of sums over complexes and over resamples (those without a denominator say nothing); None for 0/0."""
    total = denominator.sum()
    if total == 0:
        return None
    below = draws @ denominator
    values = (draws @ numerator)[below > 0] / below[below > 0]
    return _interval(float(numerator.sum() / total), values)


def _interval(value: float, resampled: np.ndarray) -> Interval:
    if resampled.size == 0:  # of few resamples all may be of complexes that say nothing
        return Interval(value, math.nan, math.nan)
    # An observed value, not one interpolated: resampled quartiles may be infinite.
    low, high = np.quantile(resampled, [0.025, 0.975], method="inverted_cdf")
    return Interval(value, float(low), float(high))


def _quartiles(
    results: Sequence[ComplexResult], weights: Sequence[np.ndarray], draws: np.ndarray
) -> dict[str, Interval]:
    """Quartiles of the selected pose's RMSD over complexes of equal weight; missing weight lies at infinity."""
    owner = np.repeat(np.arange(len(results)), [len(each) for each in weights])
    weight, value = np.concatenate(weights), np.concatenate([each.rmsd for each in results])
    kept = np.flatnonzero((weight > 0) & np.isfinite(value))
    kept = kept[np.argsort(value[kept], kind="stable")]
    owner, weight, value = owner[kept], weight[kept], np.append(value[kept], np.inf)
    levels = list(QUARTILES.values())

    def at(counts: np.ndarray) -> np.ndarray:
        reached = np.cumsum(counts[:, owner] * weight, axis=1) / len(results)
        # Sums of weights that should meet the level exactly may fall short by rounding.
        return value[np.stack([(reached < level - 1e-9).sum(axis=1) for level in levels])]

    point = at(np.ones((1, len(results))))[:, 0]
    blocks = [at(draws[start : start + ROWS_AT_ONCE]) for start in range(0, len(draws), ROWS_AT_ONCE)]
    spread = np.concatenate(blocks, axis=1)
    return {key: _interval(float(point[i]), spread[i]) for i, key in enumerate(QUARTILES)}


def success_curve(
    results: Sequence[ComplexResult], order: Order, k: int, thresholds: Float[np.ndarray, " t"]
) -> Float[np.ndarray, " t"]:
    """Per cent of complexes [T] whose selected pose has an RMSD under each threshold (Angstrom)."""
    total = np.zeros(len(thresholds))
    for each in _checked(results):
        total += (each.rmsd < thresholds[:, None]) @ _weights(each, order, k)
    return 100 * total / len(results)
