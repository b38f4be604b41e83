"""The table of a test set against brute force, cases by hand, the authors' figures and a known sampling law."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from core.errors import DataError, RequestError
from domains.docking.metrics.render import plot, to_json, to_markdown
from domains.docking.metrics.table import ComplexResult, Summary, selection_weights, success_curve, summarise

RESAMPLES = 200


def result(
    name: str, rmsd: list[float], confidence: list[float] | None = None, unseen: bool = False, near: float = 3.0
) -> ComplexResult:
    count = len(rmsd)
    return ComplexResult(
        name, np.array(rmsd, dtype=float), np.array(rmsd, dtype=float) / 2, np.full(count, near), np.full(count, 1.2),
        None if confidence is None else np.array(confidence, dtype=float), unseen, 2.0,
    )  # fmt: skip


def simulated(count: int = 30, poses: int = 12, seed: int = 0) -> list[ComplexResult]:
    rng = np.random.default_rng(seed)
    return [
        ComplexResult(
            f"c{index:03d}", rmsd := rng.lognormal(1.0, 0.8, poses), rng.lognormal(0.5, 0.8, poses),
            rng.uniform(0, 4, poses), rng.uniform(0.2, 2, poses), rng.normal(size=poses) - 0.5 * rmsd, index % 3 == 0,
            float(index),
        )
        for index in range(count)
    ]  # fmt: skip


def value(summary: Summary, group: str, order: str, top: str, key: str) -> float:
    return summary.row(group, order, top).figures[key].value


@pytest.mark.parametrize("k", [1, 2, 3, 5, 6])
def test_random_selection_is_the_mean_over_all_subsets(k: int) -> None:
    rmsd = np.array([3.0, 1.0, np.nan, 4.0, 1.5, np.nan])
    weights = selection_weights(rmsd, None, "random", k)
    distance = np.where(np.isnan(rmsd), np.inf, rmsd)
    subsets = list(itertools.combinations(range(6), k))
    assert weights.sum() == pytest.approx(1)
    for limit in (1.2, 2.0, 3.5, 10.0):
        brute = np.mean([distance[list(subset)].min() < limit for subset in subsets])
        good = int((distance < limit).sum())
        assert weights @ (rmsd < limit) == pytest.approx(brute)
        assert brute == pytest.approx(1 - math.comb(6 - good, k) / math.comb(6, k))
    assert weights[2] == weights[5]  # equal poses share their chance


def test_ranked_selections() -> None:
    rmsd = np.array([3.0, 1.0, 0.5, np.nan])
    confidence = np.array([0.9, 0.8, 0.1, np.nan])
    assert selection_weights(rmsd, confidence, "confidence", 1).tolist() == [1, 0, 0, 0]
    assert selection_weights(rmsd, confidence, "confidence", 2).tolist() == [0, 1, 0, 0]
    assert selection_weights(rmsd, confidence, "confidence", 3).tolist() == [0, 0, 1, 0]
    assert selection_weights(rmsd, None, "random", 1).tolist() == [0.25] * 4  # as the authors: all poses
    assert selection_weights(rmsd, None, "random", 99).tolist() == [0, 0, 1, 0]  # oracle
    with pytest.raises(RequestError, match="confidence"):
        selection_weights(rmsd, None, "confidence", 1)


def test_summary_of_three_complexes_by_hand() -> None:
    results = [
        result("a", [1.0, 3.0, 6.0], [0.0, 2.0, 1.0], unseen=True),
        result("b", [1.0, 1.5, 9.0], [3.0, 2.0, 1.0], near=0.3),
        ComplexResult.failed("c", False, "no conformer"),
    ]
    summary = summarise(results, resamples=RESAMPLES)
    full = summary.groups[0]
    assert (full.complexes, full.failures, full.unmeasured) == (3, 1, 0)
    assert full.seconds is not None
    assert full.seconds.value == 2.0
    assert value(summary, "full", "random", "1", "rmsd_below_2") == pytest.approx(100 * (1 / 3 + 2 / 3) / 3)
    assert value(summary, "full", "random", "1", "rmsd_below_5") == pytest.approx(100 * (2 / 3 + 2 / 3) / 3)
    assert value(summary, "full", "confidence", "1", "rmsd_below_2") == pytest.approx(100 / 3)
    assert value(summary, "full", "confidence", "1", "rmsd_below_5") == pytest.approx(200 / 3)
    assert value(summary, "full", "confidence", "1", "centroid_below_2") == pytest.approx(200 / 3)
    assert value(summary, "full", "all", "oracle", "rmsd_below_2") == pytest.approx(200 / 3)
    assert value(summary, "full", "confidence", "1", "rmsd_p25") == 1.0
    assert value(summary, "full", "confidence", "1", "rmsd_median") == 3.0
    assert value(summary, "full", "confidence", "1", "rmsd_p75") == np.inf  # the complex that failed
    assert value(summary, "full", "random", "1", "steric_clash") == 50.0  # of the complexes with poses
    assert value(summary, "full", "random", "1", "self_intersection") == 0.0
    assert value(summary, "unseen", "confidence", "1", "rmsd_below_2") == 0.0
    assert "valid" not in summary.row("full", "random", "1").figures
    with pytest.raises(RequestError, match="full/random/1"):
        summary.row("full", "random", "5")  # three poses at most


def test_authors_figures_are_reproduced() -> None:
    results = simulated()
    rmsd = np.array([each.rmsd for each in results])
    confidence = np.array([each.confidence for each in results])
    clash = np.array([each.min_protein_distance for each in results])
    ranked = np.argsort(confidence, axis=1)[:, ::-1]
    summary = summarise(results, resamples=RESAMPLES)
    assert value(summary, "full", "random", "1", "rmsd_below_2") == pytest.approx(100 * (rmsd < 2).mean())
    assert value(summary, "full", "random", "1", "steric_clash") == pytest.approx(100 * (clash < 0.4).mean())
    for k in (5, 10):
        top = np.take_along_axis(rmsd, ranked[:, :k], 1).min(1)
        assert value(summary, "full", "confidence", str(k), "rmsd_below_2") == pytest.approx(100 * (top < 2).mean())
    top1 = np.take_along_axis(rmsd, ranked[:, :1], 1)[:, 0]
    quartile = np.quantile(top1, 0.25, method="inverted_cdf")
    assert value(summary, "full", "confidence", "1", "rmsd_p25") == quartile


def test_nan_and_failures_are_misses() -> None:
    good, unknown = result("a", [1.0, 1.0]), result("b", [np.nan, np.nan])
    summary = summarise([good, unknown, ComplexResult.failed("c", True, "boom")], resamples=RESAMPLES)
    assert value(summary, "full", "random", "1", "rmsd_below_5") == pytest.approx(100 / 3)
    assert (summary.groups[0].failures, summary.groups[0].unmeasured) == (1, 2)
    unseen = summary.groups[1]
    assert (unseen.complexes, unseen.failures, unseen.seconds) == (1, 1, None)
    assert value(summary, "unseen", "random", "1", "rmsd_below_2") == 0.0
    assert "steric_clash" not in summary.row("unseen", "random", "1").figures  # nothing was measured
    # Poses kept beside a failure do not count.
    kept = replace(good, name="c", failure="boom")
    again = summarise([good, unknown, replace(kept, unseen=True)], resamples=RESAMPLES)
    assert value(again, "full", "random", "1", "rmsd_below_5") == pytest.approx(100 / 3)


def test_validity_and_the_joint_figure() -> None:
    results = [
        replace(result("a", [1.0, 1.0]), valid=np.array([True, False])),
        replace(result("b", [9.0, 9.0]), valid=np.array([True, True])),
        ComplexResult.failed("c", False, "boom"),
    ]
    summary = summarise(results, resamples=RESAMPLES)
    assert value(summary, "full", "random", "1", "valid") == pytest.approx(50)
    assert value(summary, "full", "random", "1", "rmsd_below_2_and_valid") == pytest.approx(100 / 6)
    assert "could check no pose" not in to_markdown(summary)


def test_complexes_that_could_not_be_checked_say_nothing_about_validity() -> None:
    results = [
        replace(result("a", [1.0, 1.0]), valid=np.array([True, False])),
        result("b", [1.0, 1.0]),
        ComplexResult.failed("c", False, "boom"),
        result("d", [9.0, 9.0], unseen=True),
    ]
    summary = summarise(results, resamples=RESAMPLES)
    assert value(summary, "full", "random", "1", "valid") == pytest.approx(100 * 0.5 / 2)  # of a, and c is a miss
    assert value(summary, "full", "random", "1", "rmsd_below_2_and_valid") == pytest.approx(100 * 0.5 / 2)
    assert value(summary, "full", "random", "1", "rmsd_below_2") == pytest.approx(50)
    assert [group.unchecked for group in summary.groups] == [2, 1]
    assert "valid" not in summary.row("unseen", "random", "1").figures
    assert "full: PoseBusters could check no pose of 2 complexes" in to_markdown(summary)
    # Where PoseBusters was not asked for there is nothing to say.
    plain = summarise([result("a", [1.0]), ComplexResult.failed("c", False, "boom")], resamples=RESAMPLES)
    assert "valid" not in plain.row("full", "random", "1").figures
    assert "PoseBusters" not in to_markdown(plain)


def test_order_of_complexes_and_of_poses_does_not_matter() -> None:
    results = simulated()
    rng = np.random.default_rng(1)

    def shuffled(each: ComplexResult) -> ComplexResult:
        order = rng.permutation(len(each.rmsd))
        assert each.confidence is not None
        return replace(
            each, rmsd=each.rmsd[order], centroid=each.centroid[order], confidence=each.confidence[order],
            min_protein_distance=each.min_protein_distance[order], min_self_distance=each.min_self_distance[order],
        )  # fmt: skip

    first = summarise(results, resamples=RESAMPLES)
    second = summarise([shuffled(results[index]) for index in rng.permutation(len(results))], resamples=RESAMPLES)
    for group, other in zip(first.groups, second.groups, strict=True):
        for row, twin in zip(group.rows, other.rows, strict=True):
            for key, interval in row.figures.items():
                found = twin.figures[key]
                assert (found.value, found.low, found.high) == pytest.approx(
                    (interval.value, interval.low, interval.high)
                )


def test_interval_is_deterministic_and_changes_with_the_seed() -> None:
    results = simulated()
    assert to_json(summarise(results, resamples=RESAMPLES)) == to_json(summarise(results, resamples=RESAMPLES))
    other = summarise(results, seed=1, resamples=RESAMPLES).row("full", "random", "1").figures
    assert other != summarise(results, resamples=RESAMPLES).row("full", "random", "1").figures


def test_bootstrap_covers_a_known_share() -> None:
    rng = np.random.default_rng(0)
    share, hits, trials = 0.4, 0, 60
    for _ in range(trials):
        results = [result(f"c{i}", [1.0 if success else 9.0]) for i, success in enumerate(rng.random(100) < share)]
        interval = summarise(results, resamples=RESAMPLES).row("full", "random", "1").figures["rmsd_below_2"]
        hits += interval.low <= 100 * share <= interval.high
    assert hits / trials >= 0.86  # 95 % nominal; three standard errors of 60 trials are 9 points


def test_bootstrap_width_is_that_of_a_binomial() -> None:
    results = [result(f"c{i:03d}", [1.0 if i < 110 else 9.0]) for i in range(363)]
    interval = summarise(results).row("full", "random", "1").figures["rmsd_below_2"]
    error = 100 * math.sqrt(110 / 363 * (1 - 110 / 363) / 363)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert interval.low < interval.value < interval.high


def test_summary_refuses_what_cannot_be_right() -> None:
    with pytest.raises(RequestError, match="no complexes"):
        summarise([])
    with pytest.raises(DataError, match="two results are named a"):
        summarise([result("a", [1.0]), result("a", [2.0])])
    with pytest.raises(DataError, match="no confidence"):
        summarise([result("a", [1.0], [0.0]), result("b", [2.0])])
    with pytest.raises(DataError, match="one value per pose"):
        replace(result("a", [1.0]), min_self_distance=np.zeros(2), confidence=None)
    with pytest.raises(DataError, match="no poses"):
        result("a", [])
    with pytest.raises(RequestError, match="0 resamples"):
        summarise([result("a", [1.0])], resamples=0)


def test_a_resample_without_any_measured_pose_gives_no_bounds() -> None:
    one = [result("a", [1.0]), *(ComplexResult.failed(f"b{i}", False, "boom") for i in range(9))]
    intervals = [
        summarise(one, seed=seed, resamples=1).row("full", "random", "1").figures["steric_clash"] for seed in range(20)
    ]
    assert {each.value for each in intervals} == {0.0}
    assert {math.isnan(each.low) for each in intervals} == {False, True}


def test_no_unseen_receptor_and_nothing_but_failures() -> None:
    summary = summarise([result("a", [1.0])], resamples=RESAMPLES)
    assert [group.name for group in summary.groups] == ["full"]
    assert "no complex has an unseen receptor" in to_markdown(summary)
    nothing = summarise([ComplexResult.failed("a", False, "boom")], resamples=RESAMPLES)
    assert value(nothing, "full", "random", "1", "rmsd_below_2") == 0.0
    assert value(nothing, "full", "random", "1", "rmsd_median") == np.inf
    assert "1 failed" in to_markdown(nothing)


def test_tables_show_every_row() -> None:
    summary = summarise([*simulated(), ComplexResult.failed("z", False, "boom")], resamples=RESAMPLES)
    text = to_markdown(summary)
    row = summary.row("unseen", "confidence", "5").figures["rmsd_below_2"]
    assert f"{row.value:.1f} [{row.low:.1f}, {row.high:.1f}]" in text
    assert "31 complexes, 1 failed" in text
    assert sum(line.lstrip("| ").startswith(("full (", "unseen (")) for line in text.splitlines()) == 14


def test_json_is_strict_and_complete() -> None:
    summary = summarise([result("a", [1.0]), ComplexResult.failed("z", False, "boom")], resamples=RESAMPLES)
    tree = json.loads(to_json(summary), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    row = tree["groups"][0]["rows"][0]
    assert row["figures"]["rmsd_below_2"]["value"] == 50.0
    assert row["figures"]["rmsd_p75"]["value"] is None
    assert (tree["seed"], tree["resamples"], tree["groups"][0]["failures"]) == (0, RESAMPLES, 1)


def test_curves_and_their_plot() -> None:
    results = simulated()
    thresholds = np.array([0.0, 2.0, 5.0, 1e9])
    curve = success_curve(results, "random", 5, thresholds)
    summary = summarise(results, resamples=RESAMPLES)
    assert curve[0] == 0
    assert curve[1] == pytest.approx(value(summary, "full", "random", "5", "rmsd_below_2"))
    assert curve[3] == pytest.approx(100)
    figure = plot({"latents": results, "plain": [replace(each, confidence=None) for each in results]})
    top = figure.axes[1].get_lines()
    assert [line.get_label() for line in top] == ["latents, random", "latents, confidence", "plain, random"]
    assert np.diff(np.asarray(top[0].get_ydata())).min() >= 0  # more poses never hurt the best
    assert len(np.asarray(top[0].get_xdata())) == 12
    plot({"nothing": [ComplexResult.failed("a", False, "boom")]})
