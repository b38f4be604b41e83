"""report.html: what is in it, that nothing in it can run or call out, and that it works in a real browser."""

import base64
import csv
import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from rdkit import Chem

from core.errors import DataError
from domains.docking.dock.flags import WORDS
from domains.docking.dock.report import write_report, write_run_report
from domains.docking.dock.report.drawing import drawing
from domains.docking.dock.report.page import ASSETS
from tests.browser import CHROMIUM, NO_BROWSER, Page, browser
from tests.report_support import EVIL, write_complex, write_run

SMALL = (360, 480)  # a window that software draws fast
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER)


def embedded(page: str) -> dict[str, Any]:
    """The JSON elements of a page by id."""
    found = re.findall(r'<script type="application/json" id="([\w-]+)">(.*?)</script>', page, re.DOTALL)
    return {name: json.loads(text) for name, text in found}


class Elements(HTMLParser):
    """Start tags of a page, as a browser would find them, and the text of its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.tags[-1] if self.tags else ("", {})
        if tag == "script" and "type" not in attributes and data.strip():
            self.scripts.append(data)


def written(folder: Path, path: str) -> str:
    return (folder / path).read_text()


def test_a_run_is_embedded_as_it_lies_on_disk(tmp_path: Path) -> None:
    write_run(tmp_path)
    data = embedded(write_run_report(tmp_path).read_text())
    assert {name for name in data if name.startswith("receptor")} == {"receptor-0", "receptor-1"}  # two share one
    rows = data["index"]["rows"]
    assert sorted(row["id"] for row in rows) == ["1bvi_a", "1bvi_b", "4kxj"]
    assert [row["confidence"] for row in rows] == sorted((row["confidence"] for row in rows), reverse=True)
    for row in rows:
        content = data[f"complex-{row['entry']}"]
        folder = tmp_path / row["id"]
        assert content["record"] == json.loads(written(folder, "result.json"))
        assert data[f"receptor-{content['receptor']}"] == written(folder, content["record"]["protein"]["file"])
        for pose, block in zip(content["record"]["poses"], content["molblocks"], strict=True):
            there = Chem.MolFromMolBlock(block).GetConformer().GetPositions()
            on_disk = Chem.MolFromMolFile(str(folder / pose["file"])).GetConformer().GetPositions()
            np.testing.assert_array_equal(there, on_disk)
        assert all((tmp_path / unquote(href)).is_file() for _, href in content["files"])
    assert [row["reason"] for row in data["index"]["failures"]] == ["record 3: no atoms", EVIL]
    assert dict(data["index"]["facts"])["Seed"] == "7"


def test_a_trajectory_ends_in_its_pose(tmp_path: Path) -> None:
    write_complex(tmp_path / "a", "1bvi", "protein.pdb", full=True)
    content = embedded(write_report([tmp_path / "a"], tmp_path / "a" / "report.html").read_text())["complex-0"]
    frames = np.array(content["trajectories"][0]).reshape(22, -1, 3)
    pose = Chem.MolFromMolBlock(content["molblocks"][0]).GetConformer().GetPositions()
    np.testing.assert_allclose(frames[-1], pose, atol=0.006)  # two decimals
    assert content["trajectories"][1:] == [None] * 3
    assert ["Protein (PDB)", "./protein.pdb"] in content["files"]  # one complex saved on its own


def test_texts_from_files_stay_texts(tmp_path: Path) -> None:
    ligand = {"name": EVIL, "smiles": EVIL, "notes": [EVIL]}
    write_complex(tmp_path / "a", "2p70", "protein.pdb", id=EVIL, ligand=ligand, notes=[EVIL])
    with (tmp_path / "failures.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([("id", "ligand", "stage", "reason"), [EVIL] * 4])
    page = write_run_report(tmp_path).read_text()
    data, elements = embedded(page), Elements(page)
    assert data["index"]["rows"][0]["id"] == data["index"]["failures"][0]["id"] == EVIL
    assert data["complex-0"]["record"]["ligand"] == ligand
    tags = [tag for tag, _ in elements.tags]
    assert tags.count("script") == 2 + len(data)
    assert "img" not in tags
    assert not any(name.startswith("on") for _, attributes in elements.tags for name in attributes)


def test_nothing_is_loaded_and_only_our_scripts_may_run(tmp_path: Path) -> None:
    write_complex(tmp_path / "a", "2p70", "protein.pdb")
    elements = Elements(write_run_report(tmp_path).read_text())
    addresses = [a[name] for _, a in elements.tags for name in ("src", "href") if name in a]
    assert sorted(map(str, addresses)) == ["#detail", "data:,"]
    policy = next(a["content"] for _, a in elements.tags if a.get("http-equiv") == "Content-Security-Policy")
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in elements.scripts]
    assert policy is not None
    assert f"default-src 'none'; script-src 'sha256-{digests[0]}' 'sha256-{digests[1]}';" in policy
    assert "Copyright (c) 2014, University of Pittsburgh" in write_run_report(tmp_path).read_text()


def test_beyond_the_limit_complexes_are_listed_but_not_embedded(tmp_path: Path) -> None:
    for name, confidence in (("lig10", None), ("lig2", None), ("low", -2.0), ("high", 0.5)):
        record = write_complex(tmp_path / name, "2p70", "../proteins/p.pdb")
        record["poses"][0]["confidence"] = confidence
        (tmp_path / name / "result.json").write_text(json.dumps(record))
    data = embedded(write_run_report(tmp_path, limit=1).read_text())
    assert [(row["id"], row["entry"]) for row in data["index"]["rows"]] == [
        ("high", 0), ("low", None), ("lig2", None), ("lig10", None),
    ]  # fmt: skip
    assert data["complex-0"]["record"]["id"] == "high"
    assert "complex-1" not in data
    assert data["index"]["limit"] == 1


def test_what_is_missing_or_damaged_does_not_spoil_the_report(tmp_path: Path) -> None:
    write_complex(tmp_path / "a", "2p70", "protein.pdb", seconds=float("nan"))
    for name in ("rank1.sdf", "protein.pdb"):
        (tmp_path / "a" / name).unlink()
    (tmp_path / "a" / "rank2.sdf").write_text("no molecule")
    for name, text in (("b", "{"), ("c", '{"schema": 2}'), ("d", '{"schema": 1, "id": "d", "poses": [1]}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(text)
    data = embedded(write_run_report(tmp_path).read_text())
    content = data["complex-0"]
    assert content["record"]["seconds"] is None
    assert content["receptor"] is None
    assert [block is None for block in content["molblocks"]] == [True, True, False, False]
    assert not {"./a/rank1.sdf", "./a/protein.pdb"} & {href for _, href in content["files"]}
    assert [row["id"] for row in data["index"]["failures"]] == ["b", "c", "d"]
    assert data["index"]["failed"] == 3


def test_every_flag_has_its_sentence() -> None:
    table = re.search(r"const FLAGS = \{(.*?)\n\};", (ASSETS / "words.js").read_text(), re.DOTALL)
    assert table is not None
    sentences = dict(re.findall(r"""^  "?([\w-]+)"?: "(.+)",$""", table[1], re.MULTILINE))
    assert list(sentences) == list(WORDS)


def test_the_band_of_rank_1_is_in_the_table(tmp_path: Path) -> None:
    record = write_complex(tmp_path / "a", "2p70", "../proteins/p.pdb")
    (row,) = embedded(write_run_report(tmp_path).read_text())["index"]["rows"]
    assert row["confidence_band"] == record["poses"][0]["confidence_band"] == "high"


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to report"):
        write_run_report(tmp_path)


def test_places_of_atoms_are_those_of_the_drawing() -> None:
    mol = Chem.AddHs(Chem.MolFromSmiles("OCC"))
    mol = Chem.RenumberAtoms(mol, [3, 2, 1, 0, *range(4, 9)])  # a hydrogen first
    drawn = drawing(Chem.MolToMolBlock(mol))
    assert drawn is not None
    kinds = [atom.GetSymbol() for atom in mol.GetAtoms()]
    assert [point is None for point in drawn["points"]] == [kind == "H" for kind in kinds]
    line = re.search(r"class='bond-\d+ atom-1 atom-0' d='M ([\d.]+),([\d.]+) L ([\d.]+),([\d.]+)'", drawn["svg"])
    assert line is not None
    np.testing.assert_allclose(drawn["points"][2] + drawn["points"][1], [float(x) for x in line.groups()], atol=0.11)
    assert drawing("no molecule") is None


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser() as tab:
        yield tab


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    write_run(out)
    write_complex(out / "evil", "2p70", "../proteins/2p70.pdb", ligand={"name": EVIL, "smiles": EVIL, "notes": [EVIL]})
    return write_run_report(out)


def click(tab: Page, selector: str, number: int = 0) -> None:
    tab.run(f"document.querySelectorAll({json.dumps(selector)})[{number}].click()")


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (400, False)])
def test_the_page_opens_offline_without_errors_and_fits(page: Page, report: Path, width: int, dark: bool) -> None:
    page.requests.clear()
    page.open(report, width, 800, dark, "#evil")
    assert page.run("document.querySelector('#detail h2').textContent") == "evil"
    assert page.run("document.querySelector('#detail .quiet').textContent") == f"{EVIL} · 4 poses"
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run("document.querySelectorAll('canvas').length") == 1
    assert page.run("window.evil") is None
    assert page.errors == []
    assert {address.split(":")[0] for address in page.requests} <= {"file", "data", "about"}
    assert [address for address in page.requests if address.startswith("file:")] == [report.as_uri()]


@needs_browser
def test_arrow_keys_switch_poses(page: Page, report: Path) -> None:
    page.open(report, *SMALL, fragment="#1bvi_a")
    title = "document.querySelector('.cards h3').textContent"
    for focus, key, expected in (
        (".pose input", "ArrowDown", 2),
        (".scene", "ArrowRight", 3),
        (".scene", "ArrowLeft", 2),
    ):
        page.run(f"document.querySelector('{focus}').focus()")
        page.press(key)
        assert page.run(title) == f"Pose {expected}"
        assert page.run("document.querySelector('.pose :checked').value") == str(expected - 1)
    assert "pose 2 of 1bvi_a" in page.run("document.querySelector('.scene').getAttribute('aria-label')")


@needs_browser
def test_the_view_shows_what_is_asked_for(page: Page, report: Path) -> None:
    page.open(report, *SMALL, fragment="#1bvi_a")
    seen = [page.run("stage.scene.viewer.pngURI()")]
    for selector, number in ((".chip", 0), (".chip", 1), *((".tools input", box) for box in range(5))):
        click(page, selector, number)
        seen.append(page.run("stage.scene.viewer.pngURI()"))
    assert len(set(seen)) == len(seen)
    assert page.run("document.querySelectorAll('.drawing circle').length") == 1
    assert page.errors == []


@needs_browser
def test_a_trajectory_plays_to_its_end(page: Page, report: Path) -> None:
    page.open(report, *SMALL, fragment="#1bvi_a")
    atom = "(() => { const { x, y, z } = stage.scene.ligand.selectedAtoms({})[0]; return [x, y, z]; })()"
    pose = page.run(atom)
    click(page, ".player button")
    assert np.linalg.norm(np.subtract(page.run(atom), pose)) > 1
    page.wait("document.querySelector('.player output').textContent === 'The pose, minimised'")
    assert page.run(atom) == pose
    click(page, ".pose input", 1)
    assert page.run("document.querySelector('.player').hidden")


@needs_browser
def test_what_minimisation_did_and_did_not_do_is_told(page: Page, tmp_path: Path) -> None:
    record = write_complex(tmp_path / "a", "1bvi", "protein.pdb", full=True)
    film = {"trajectory": record["poses"][0]["trajectory"]}
    record["poses"][1] |= {"file": "rank1.sdf", **film}
    record["poses"][1]["minimized"] = {"force_field": "", "moved": 0.0, "reason": "no protein atom within 8 A"}
    (tmp_path / "a" / "result.json").write_text(json.dumps(record))
    page.open(write_run_report(tmp_path), *SMALL)
    cards = "[...document.querySelectorAll('.cards .card')]"
    card = f"{cards}.find((one) => one.innerText.startsWith('Minimisation')).innerText"
    last, step = "document.querySelector('.player output').textContent", "stage.player.seek({})"
    assert "The pose shown and written is the minimised one" in page.run(card)
    assert page.run(last) == "The pose, minimised"
    for number, said in ((0, "Step 0 of 20, noise"), (19, "Step 19 of 20"), (20, "Step 20 of 20, as sampled")):
        page.run(step.format(number))
        assert page.run(last) == said
    click(page, ".pose input", 1)
    assert page.run(card).split("\n")[-1] == "Left as sampled: no protein atom within 8 A"
    assert page.run(last) == "Step 21 of 21, the pose"
    assert page.errors == []


@needs_browser
def test_what_is_not_known_of_a_pose_is_said(page: Page, report: Path) -> None:
    page.open(report, *SMALL, fragment="#1bvi_a")
    first = "document.querySelector('.cards .card').innerText"
    known = page.run(first)
    assert "4.2 kcal/mol" in known
    assert "No flags: nothing wrong was seen. That" in known
    assert "see the protein alone: no waters, metals, cofactors or nucleic acids" in known
    click(page, ".pose input", 2)
    assert re.search(r"Strain\s+not known", page.run(first))
    assert "nothing wrong" not in page.run(first)


@needs_browser
def test_bands_are_shown_in_the_table_and_in_the_list(page: Page, report: Path) -> None:
    page.open(report, *SMALL)
    assert "high" in page.run("document.querySelector('#complexes tbody .band').innerText")
    assert "high" in page.run("document.querySelector('.poses .band').innerText")


@needs_browser
def test_the_table_is_searched_sorted_and_chosen_from(page: Page, report: Path) -> None:
    page.open(report, *SMALL)
    listed = "[...document.querySelectorAll('#complexes button.id')].map((one) => one.textContent)"
    click(page, "#complexes thead button")
    assert page.run(listed) == ["1bvi_a", "1bvi_b", "4kxj", "evil"]
    click(page, "#complexes thead button")
    assert page.run(listed) == ["evil", "4kxj", "1bvi_b", "1bvi_a"]
    page.run(
        "search = document.getElementById('search'), search.value = 'bvi', search.dispatchEvent(new Event('input'))"
    )
    assert page.run(listed) == ["1bvi_b", "1bvi_a"]
    click(page, "#complexes button.id", 1)
    assert page.run("document.querySelector('#detail h2').textContent") == "1bvi_a"
    assert page.run("location.hash") == "#1bvi_a"


@needs_browser
def test_poses_without_confidence_and_complexes_beyond_the_limit_are_told(page: Page, tmp_path: Path) -> None:
    for name in ("a", "b"):
        record = write_complex(tmp_path / name, "2p70", "../proteins/p.pdb")
        for pose in record["poses"]:
            pose |= {"confidence": None, "confidence_band": None, "latents": []}
        (tmp_path / name / "result.json").write_text(json.dumps(record))
    page.open(write_run_report(tmp_path, limit=1), *SMALL)
    assert "its poses are not ranked" in page.run("document.getElementById('confidence-note').innerText")
    assert page.run("document.querySelector('.side legend').textContent") == "Poses, not ranked"
    assert "the 1 with the best" not in page.run("document.getElementById('limit-note').innerText")
    click(page, "#complexes button.id", 1)
    assert page.run("document.querySelector('#detail .note a').getAttribute('href')") == "./b/poses.sdf"
    assert page.errors == []


@needs_browser
def test_without_webgl_the_page_says_so_and_the_rest_works(report: Path) -> None:
    with browser("--disable-3d-apis") as tab:
        tab.open(report, fragment="#1bvi_a")
        assert "no WebGL" in tab.run("document.querySelector('.scene').innerText")
        for selector, number in ((".pose input", 2), (".chip", 0)):
            click(tab, selector, number)
        assert tab.run("document.querySelector('.cards h3').textContent") == "Pose 3"
        assert tab.errors == []
