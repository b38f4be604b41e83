"""How well scores rank poses: areas under ROC curves, and what the best-scored pose is worth."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from core.errors import DataError
from domains.docking.metrics.table import Interval

# Scores [p] and RMSD [p] (Angstrom) of the poses of a complex. "_": complexes differ in their number of poses.
Scored = tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]


def auroc(scores: Float[np.ndarray, " p"], good: Bool[np.ndarray, " p"]) -> float:
    """Chance that a good pose has a higher score than a bad one, ties count one half; NaN without one of the kinds."""
    positive, negative = int(good.sum()), int((~good).sum())
    if not positive or not negative:
        return float("nan")
    above = rankdata(scores)[good].sum() - positive * (positive + 1) / 2  # Mann and Whitney's U
    return float(above / (positive * negative))


def ranking_figures(
    complexes: Sequence[Scored], threshold: float = 2.0, resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Figures of "RMSD below ``threshold``" over the poses of every complex.

    ``auroc pooled``; ``auroc within``: mean over the complexes with good and bad poses; shares of complexes whose pose
    is good: ``random`` (expected), ``top-1``, ``oracle``; ``lift``: top-1 minus random; ``gain``: the share of the way
    from random to oracle. RMSDs that are NaN count as bad. Raises DataError without complexes.
    """
    if not complexes:
        raise DataError("no complex to rank poses of")
    rows = [_row(scores, np.nan_to_num(rmsd, nan=np.inf) < threshold) for scores, rmsd in complexes]
    table = np.array(rows)
    generator = np.random.default_rng(seed)
    draws = generator.integers(len(rows), size=(resamples, len(rows)))
    pooled = [(scores, np.nan_to_num(rmsd, nan=np.inf) < threshold) for scores, rmsd in complexes]

    def area(chosen: np.ndarray) -> float:
        return auroc(np.concatenate([pooled[i][0] for i in chosen]), np.concatenate([pooled[i][1] for i in chosen]))

    def mean(column: int) -> Callable[[np.ndarray], float]:
        return lambda chosen: _mean(table[chosen, column])

    def lift(chosen: np.ndarray) -> float:
        return _mean(table[chosen, 2] - table[chosen, 1])

    def gain(chosen: np.ndarray) -> float:
        random, top, oracle = table[chosen, 1:].mean(0)
        return float((top - random) / (oracle - random)) if oracle > random else float("nan")

    wanted: dict[str, Callable[[np.ndarray], float]] = {
        "auroc pooled": area, "auroc within": mean(0), "random": mean(1), "top-1": mean(2), "oracle": mean(3),
        "lift": lift, "gain": gain,
    }  # fmt: skip
    return {name: _figure(figure, draws) for name, figure in wanted.items()}


def _row(scores: Float[np.ndarray, " p"], good: Bool[np.ndarray, " p"]) -> tuple[float, float, float, float]:
    """Area, and success of a random pose, of the best-scored one (the mean of several) and of the best there is."""
    best = good[scores == scores.max()].mean()
    return auroc(scores, good), float(good.mean()), float(best), float(good.any())


def _figure(figure: Callable[[np.ndarray], float], draws: np.ndarray) -> Interval:
    values = np.array([figure(chosen) for chosen in draws])
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, [0.025, 0.975]) if len(values) else (np.nan, np.nan)
    return Interval(figure(np.arange(draws.shape[1])), float(low), float(high))


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
