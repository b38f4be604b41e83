"""The comparison of docking methods: killed runs go on, chance is uniform, figures by hand, marked sources."""

import json
import math
import multiprocessing
import os
import signal
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.docking_table.__main__ import main
from benchmarks.docking_table.complexes import Case, Mode, Poses, read_cases, search_box
from benchmarks.docking_table.model import ModelDocking
from benchmarks.docking_table.published import MARK, PUBLISHED
from benchmarks.docking_table.random_placement import RandomPlacement, Shell, placed, uniform_points
from benchmarks.docking_table.render import markdown
from benchmarks.docking_table.report import Entry, Run, bands, entries
from benchmarks.docking_table.store import Record, dock, run
from benchmarks.docking_table.vina import heavy_atoms, order_of, read_poses
from core.errors import DataError, RequestError
from domains.docking.chemistry.pocket import Around, Box
from domains.docking.chemistry.protein import read_protein
from tests.docking_models import COMPLEXES, save_model

NAMES = sorted(path.name for path in COMPLEXES.iterdir() if path.is_dir())[:3]
CASES = [Case(name, "main", False, COMPLEXES / name) for name in NAMES]
ABOUT = {"program": "random", "settings": {}, "alone": False}


def crystal(case: Case, mode: Mode) -> Poses:
    """The true pose, and the same 3 A beside it, which is ranked second."""
    places = case.ligand().mol.GetConformer().GetPositions()
    return Poses(np.stack([places, places + np.array([3.0, 0.0, 0.0])]), np.array([1.0, 0.0]))


def killed_at_the_last(out: Path) -> None:
    """As by ``kill -9``, while the last complex is docked."""

    def method(case: Case, mode: Mode) -> Poses:
        if case.name == NAMES[-1]:
            os.kill(os.getpid(), signal.SIGKILL)
        return crystal(case, mode)

    run(out, ABOUT, CASES, method, "pocket", pose_checks=False)


def record(name: str, rmsd: list[float | None], *, ranked: bool = True, valid: bool | None = None) -> Record:
    same = tuple(rmsd)
    return Record(name, "main", False, ranked, same, same, same, same, valid=valid, wall=2.0, cpu=1.0)


def save(out: Path, name: str, mode: str, records: list[Record], program: str = "vina") -> None:
    folder = out / f"{name}-{mode}"
    folder.mkdir(parents=True)
    (folder / "method.json").write_text(json.dumps({**ABOUT, "program": program, "mode": mode}))
    for each in records:
        (folder / f"{each.name}.json").write_text(json.dumps(asdict(each)))


def lines_of(records: list[Record], program: str = "vina") -> dict[tuple[str, str], Entry]:
    about = {**ABOUT, "program": program, "mode": "pocket"}
    found = entries([Run("method", about, tuple(records))], resamples=500)
    return {(line.group, line.order): line for line in found}


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    out = tmp_path / "method-pocket"
    child = multiprocessing.get_context("fork").Process(target=killed_at_the_last, args=(out,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    first = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert sorted(first) == sorted([*(f"{name}.json" for name in NAMES[:-1]), "method.json"])
    docked: list[str] = []

    def noted(case: Case, mode: Mode) -> Poses:
        docked.append(case.name)
        return crystal(case, mode)

    run(out, ABOUT, CASES, noted, "pocket", pose_checks=False)
    assert docked == NAMES[-1:]
    assert {name: (out / name).stat().st_mtime_ns for name in first} == first
    found = Record.read(out / f"{NAMES[-1]}.json")
    assert found.rmsd == pytest.approx((0.0, 3.0), abs=1e-3)
    assert found.centroid == pytest.approx((0.0, 3.0), abs=1e-3)
    with pytest.raises(RequestError, match="under other settings"):
        run(out, {**ABOUT, "settings": {"seed": 1}}, CASES, noted, "pocket", pose_checks=False)


def test_a_failure_is_a_miss_with_its_reason_and_stops_no_other(tmp_path: Path) -> None:
    def fails(case: Case, mode: Mode) -> Poses:
        if case.name == NAMES[0]:
            raise RequestError("Vina was stopped after 240 CPU s")
        if case.name == NAMES[1]:
            raise ZeroDivisionError("by zero")
        return crystal(case, mode)

    run(tmp_path / "results" / "vina-pocket", {**ABOUT, "program": "vina"}, CASES, fails, "pocket", pose_checks=False)
    assert main(["report", str(tmp_path / "results"), "-o", str(tmp_path), "--resamples", "50"]) == 0
    line = json.loads((tmp_path / "table.json").read_text())["entries"][0]
    assert line["complexes"] == 3
    assert line["failures"] == {"Vina was stopped after 240 CPU s": 1, "ZeroDivisionError: by zero": 1}
    assert line["figures"]["top-1 % < 2 A"]["value"] == pytest.approx(100 / 3)
    assert line["figures"]["median top-1 A"]["value"] is None  # more misses than poses
    text = (tmp_path / "table.md").read_text()
    assert "vina-pocket: 1 x Vina was stopped after 240 CPU s" in text
    assert "load of the machine not controlled" in text
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_figures_of_records_made_by_hand() -> None:
    lines = lines_of(
        [
            record("a", [1.0, 4.0], valid=True),
            record("b", [4.0, 1.0], valid=True),
            record("c", [6.0, 3.0], valid=False),
            record("d", [1.5, None], valid=None),
        ],
        program="model",
    )
    ranked = {name: figure.value for name, figure in lines["all", "ranked"].figures.items()}
    assert ranked["top-1 % < 2 A"] == 50
    assert ranked["top-1 % < 5 A"] == 75
    assert ranked["oracle % < 2 A"] == 75
    assert ranked["oracle % < 5 A"] == 100
    assert ranked["median top-1 A"] == 1.5
    assert ranked["% centroid < 2 A"] == 50
    assert ranked["% PB-valid"] == pytest.approx(200 / 3)  # of the three that could be checked
    assert ranked["% < 2 A and valid"] == pytest.approx(100 / 3)
    assert (lines["all", "ranked"].unchecked, lines["all", "ranked"].wall, lines["all", "ranked"].cpu) == (1, 2, 1)
    drawn = {name: figure.value for name, figure in lines["all", "random pose"].figures.items()}
    assert drawn["top-1 % < 2 A"] == 100 * (0.5 + 0.5 + 0 + 0.5) / 4  # the mean over both poses
    assert "% PB-valid" not in drawn  # known of the best ranked pose alone
    assert set(lines) == {(group, order) for group in ("all", "main") for order in ("ranked", "random pose")}


def test_first_poses_are_counted_by_their_confidence() -> None:
    def ranked(name: str, score: float, rmsd: float | None) -> Record:
        return replace(record(name, [rmsd, 0.5]), scores=(score, -9.0))

    records = (
        ranked("a", 2.5, 1.0), ranked("b", 2.0, 3.0), ranked("c", 0.1, 1.9), ranked("d", 0.0, 9.0),
        ranked("e", -4.0, None),
    )  # fmt: skip
    model = Run("model-pocket", {"program": "model", "mode": "pocket"}, records)
    counts = [(band.word, band.complexes, band.below_2, band.below_5) for band in bands(model)]
    assert counts == [("high", 3, 2, 3), ("moderate", 1, 0, 0), ("low", 1, 0, 0)]
    chances = [sum(1 / (1 + math.exp(-score)) for score in scores) for scores in ((2.5, 2.0, 0.1), (0.0,), (-4.0,))]
    assert [band.expected for band in bands(model)] == pytest.approx(chances)
    text = markdown([model], list(entries([model], 5)), 5)
    assert f"| model-pocket | high | 3 | {chances[0]:.1f} | 2 | 3 |" in text
    assert bands(replace(model, about={"program": "vina", "mode": "pocket"})) == []


def test_top_5_and_unranked_poses() -> None:
    poses: list[float | None] = [9.0, 9.0, 9.0, 9.0, 1.0, 9.0]
    assert lines_of([record("a", poses)])["all", "ranked"].figures["top-5 % < 2 A"].value == 100
    chance = lines_of([record("a", poses, ranked=False)])["all", "random pose"].figures
    assert chance["top-5 % < 2 A"].value == pytest.approx(500 / 6)
    assert chance["top-1 % < 2 A"].value == pytest.approx(100 / 6)


def test_intervals_hold_the_known_value_and_have_its_width() -> None:
    records = [record(f"c{number:03d}", [1.0 if number % 4 else 9.0]) for number in range(100)]
    figure = lines_of(records)["all", "ranked"].figures["top-1 % < 2 A"]
    width = 2 * 1.96 * 100 * math.sqrt(0.75 * 0.25 / 100)  # of the binomial, in per cent
    assert figure.value == 75
    assert figure.low < 75 < figure.high
    assert figure.high - figure.low == pytest.approx(width, rel=0.2)


def test_methods_on_different_complexes_are_also_compared_on_those_they_share(tmp_path: Path) -> None:
    save(tmp_path, "few", "blind", [record("a", [1.0])])
    save(tmp_path, "many", "blind", [record("a", [1.0]), record("b", [9.0])])
    assert main(["report", str(tmp_path), "-o", str(tmp_path), "--resamples", "20"]) == 0
    lines = json.loads((tmp_path / "table.json").read_text())["entries"]
    top = {(line["group"], line["method"]): line["figures"]["top-1 % < 2 A"]["value"] for line in lines}
    assert top["all", "many-blind"] == 50
    assert top["shared", "many-blind"] == top["shared", "few-blind"] == 100


def test_published_figures_stand_apart_and_are_marked(tmp_path: Path) -> None:
    save(tmp_path, "vina", "pocket", [record("a", [1.0])])
    main(["report", str(tmp_path), "-o", str(tmp_path), "--resamples", "20"])
    own, _, published = (tmp_path / "table.md").read_text().partition("## Published")
    assert f"**{MARK}**" in published
    assert "16,379" in MARK
    assert "363" in MARK
    assert all(row.method in published for row in PUBLISHED)
    assert not any(row.method in own for row in PUBLISHED)
    assert "| DisCo-DiffDock-S | blind | 35.4 | - | - | 18.5 | 9.1 |" in published


def test_reports_without_results_or_with_damaged_ones_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path), "-o", str(tmp_path)]) == 1
    assert "no results in" in capsys.readouterr().err
    save(tmp_path, "vina", "pocket", [record("a", [1.0])])
    (tmp_path / "vina-pocket" / "a.json").write_text('{"name": "a"}')
    assert main(["report", str(tmp_path), "-o", str(tmp_path)]) == 1
    assert "a.json: is no record" in capsys.readouterr().err


def test_random_points_are_inside_their_region_and_uniform() -> None:
    count, rng = 20_000, np.random.default_rng(0)
    box = Box((1.0, 2.0, 3.0), (2.0, 4.0, 6.0))
    points = uniform_points(box, np.full(3, -20.0), np.full(3, 20.0), 500, rng)
    assert box.contains(points).all()
    assert points.shape == (500, 3)
    assert points.mean(axis=0) == pytest.approx((1, 2, 3), abs=0.35)
    sphere = Around(np.zeros((1, 3)), 10.0)
    radius = np.linalg.norm(uniform_points(sphere, np.full(3, -10.0), np.full(3, 10.0), count, rng), axis=1)
    assert radius.max() <= 10
    assert radius.mean() == pytest.approx(7.5, abs=0.05)
    shell = Shell(np.zeros((1, 3)), 3.0, 6.0)
    radius = np.linalg.norm(uniform_points(shell, np.full(3, -6.0), np.full(3, 6.0), count, rng), axis=1)
    assert radius.min() >= 3
    assert radius.max() <= 6
    assert radius.mean() == pytest.approx(0.75 * (6**4 - 3**4) / (6**3 - 3**3), abs=0.03)


def test_placed_conformers_are_rigid_turned_uniformly_and_where_they_should_be() -> None:
    rng = np.random.default_rng(1)
    shape, centers = np.array([[3.0, 0, 0], [-1, 2, 0], [0, 0, 1.0]]), rng.normal(size=(4000, 3))
    poses = placed([shape], centers, rng)
    assert poses.mean(axis=1) == pytest.approx(centers)
    assert np.linalg.norm(poses[:, 0] - poses[:, 1], axis=1) == pytest.approx(np.full(4000, math.sqrt(20)))
    arms = (poses - centers[:, None])[:, 0] / np.linalg.norm(shape[0] - shape.mean(axis=0))
    assert arms.mean(axis=0) == pytest.approx(np.zeros(3), abs=0.04)
    assert arms.T @ arms / 4000 == pytest.approx(np.eye(3) / 3, abs=0.03)  # of a uniform unit vector


def test_random_placement_of_a_real_complex() -> None:
    case = CASES[0]
    atoms = read_protein(case.protein).positions
    blind = RandomPlacement(poses=12)(case, "blind")
    assert Shell(atoms).contains(blind.positions.mean(axis=1)).all()
    assert blind.scores is None
    assert np.array_equal(blind.positions, RandomPlacement(poses=12)(case, "blind").positions)
    pocket = RandomPlacement(poses=12, seed=1)(case, "pocket").positions
    assert Around(case.ligand().mol.GetConformer().GetPositions(), 10.0).contains(pocket.mean(axis=1)).all()
    found = dock(case, RandomPlacement(poses=12), "blind", pose_checks=False)
    assert len(found.rmsd) == 12
    assert not found.ranked
    assert found.failure is None


def test_the_search_box_holds_the_ligand_with_room() -> None:
    points = np.array([[0.0, 0.0, 0.0], [30.0, 4.0, 10.0]])
    assert search_box(points) == ([15.0, 2.0, 5.0], [40.0, 20.0, 20.0])


def test_vina_poses_come_back_in_the_order_of_the_ligand() -> None:
    start = np.array([[0.0, 0.0, 0.0], [1.5, 0.0, 0.0], [0.0, 1.5, 0.0]])

    def atom(place: np.ndarray, kind: str) -> str:
        x, y, z = place
        return f"ATOM      1  X   UNL     1    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00     0.000 {kind}\n"

    lines = [atom(start[2], "OA"), atom(start[2] + 1, "HD"), atom(start[0], "C"), atom(start[1], "A")]
    moved = [atom(start[2] + 5, "OA"), atom(start[2] + 6, "HD"), atom(start[0] + 5, "C"), atom(start[1] + 5, "A")]
    text = "MODEL 1\nREMARK VINA RESULT:    -7.500      0.000      0.000\n" + "".join(moved) + "ENDMDL\n"
    places, energies = read_poses(text)
    assert energies.tolist() == [-7.5]
    assert len(heavy_atoms("".join(lines))) == 3
    assert places[0, order_of("".join(lines), start)] == pytest.approx(start + 5)
    with pytest.raises(DataError, match="not those of the ligand"):
        order_of("".join(lines), start + 0.1)
    with pytest.raises(DataError, match="no pose"):
        read_poses("")


def test_a_model_docks_by_the_call_of_users(tmp_path: Path) -> None:
    model = ModelDocking(save_model(tmp_path / "model"), poses=2, options={"steps": "2"})
    poses = model(CASES[0], "pocket")
    assert poses.positions.shape == (2, CASES[0].ligand().n_atoms, 3)
    assert poses.scores is not None
    assert poses.scores[0] >= poses.scores[1]
    assert model.about["steps"] == "2"
    assert len(model.about["model"]) > 10


def test_complexes_come_in_an_order_that_can_be_cut_anywhere(tmp_path: Path) -> None:
    table = tmp_path / "test.csv"
    rows = [f"{number:04d},{'hard(x)' if number % 2 else 'main'},{number % 3 // 2}" for number in range(20)]
    table.write_text("\n".join(["id,subset,no_rec_overlap", *rows]) + "\n")
    names = [case.name for case in read_cases(tmp_path, table)]
    assert sorted(names) == [f"{number:04d}" for number in range(20)]
    assert names != sorted(names)
    hard = [case.name for case in read_cases(tmp_path, table, "hard")]
    assert hard == [name for name in names if int(name) % 2]  # a part keeps the order of the whole
    with pytest.raises(DataError, match="no complex of the subset 'easy'"):
        read_cases(tmp_path, table, "easy")
