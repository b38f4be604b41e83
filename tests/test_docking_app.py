"""disco app: docking through the page's own addresses, and the page in a real browser."""

import gzip
import json
import re
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rdkit import Chem

from domains.docking.dock.app.order import MAX_LIGANDS
from domains.docking.pipeline import DockingPipeline
from tests.app_support import (
    LIGAND,
    LIMIT,
    PATIENCE,
    PROTEIN,
    Fields,
    Server,
    archive_of,
    multipart,
    serving,
    tiny_pipeline,
)
from tests.browser import CHROMIUM, NO_BROWSER, Page, browser
from tests.support import DOCKING_DATA


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tiny_pipeline(), tmp_path_factory.mktemp("work")) as running:
        yield running


@pytest.fixture(scope="module")
def docked(server: Server) -> dict[str, Any]:
    return server.dock_everything()


# ---- docking --------------------------------------------------------------------------------------------------------


def test_a_form_becomes_a_report_an_archive_and_named_failures(server: Server, docked: dict[str, Any]) -> None:
    assert docked["state"] == "done"
    assert docked["share"] == 1
    [row], [failure] = docked["results"], docked["failures"]
    assert (row["id"], row["poses"]) == ("6w70_protein_ethanol", 2)
    assert (failure["id"], failure["stage"]) == ("6w70_protein_broken", "ligand")
    assert "cannot parse SMILES" in failure["reason"]
    files = archive_of(server, docked)
    folder = "docked/6w70_protein_ethanol"
    assert {"docked/report.html", "docked/summary.csv", "docked/failures.csv", "docked/config.yaml"} <= files.keys()
    assert {f"{folder}/rank1.sdf", f"{folder}/poses.sdf", f"{folder}/rank2_reverseprocess.pdb"} <= files.keys()
    record = json.loads(files[f"{folder}/result.json"])
    assert record["protein"]["source"] == "6w70_protein.pdb"
    assert record["ligand"]["source"] == "the pasted text"
    assert (record["settings"]["seed"], record["settings"]["steps"], record["model"]["name"]) == (3, 2, "tiny")
    assert record["poses"][0]["checks"]
    assert record["poses"][0]["minimized"]
    for name, content in files.items():
        assert server.get(f"/jobs/{docked['id']}/files/{name.removeprefix('docked/')}") == content


def test_poses_are_those_of_the_python_interface(server: Server, tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    fields = {"ligand": LIGAND, "site": "ligand", "pocket": LIGAND, "margin": "8", "seed": "5"}
    told = server.wait(server.dock(fields))
    [name] = [row["id"] for row in told["results"]]
    config = yaml.safe_load(server.get(f"/jobs/{told['id']}/files/config.yaml"))
    assert (config["pocket"], config["steps"], config["model"]) == ("6w70_ligand.sdf", 2, "tiny")
    assert config["sampler"] == pipeline.config.sampling.sampler  # the form asked for none
    protein = tmp_path / "6w70_protein.pdb"
    protein.write_bytes(gzip.decompress(PROTEIN.read_bytes()))
    result = DockingPipeline(pipeline.domain, pipeline.networks, name="tiny").dock(
        protein, LIGAND, poses=2, seed=5, steps=2, pocket=LIGAND, margin=8
    )
    assert result.id == name
    for rank in (1, 2):
        mol = Chem.MolFromMolBlock(server.get(f"/jobs/{told['id']}/files/{name}/rank{rank}.sdf").decode())
        expected = result.mol(rank).GetConformer().GetPositions()
        np.testing.assert_allclose(mol.GetConformer().GetPositions(), expected, atol=1e-3)


@pytest.mark.parametrize(
    "ligand",
    [
        LIGAND,
        LIGAND.read_text(),
        DOCKING_DATA / "alanine_anilide.mol2",
        "InChI=1S/C2H6O/c1-2-3/h3H,2H2,1H3",
        "C[C@H](N)O",
    ],
    ids=["sdf", "pasted-sdf", "mol2", "inchi", "smiles"],
)
def test_ligands_come_as_files_or_texts(server: Server, ligand: str | Path) -> None:
    assert server.wait(server.dock({"ligand": ligand, "poses": "1", "steps": "1"}))["state"] == "done"


def test_gzip_files_of_several_members_are_read_whole(server: Server) -> None:
    text = b"".join(gzip.compress(f"{smiles} {name}\n".encode()) for smiles, name in (("CCO", "a"), ("CCN", "b")))
    told = server.wait(server.dock({"ligand": ("both.smi.gz", text), "poses": "1", "steps": "1"}))
    assert [row["id"] for row in told["results"]] == ["6w70_protein_a", "6w70_protein_b"]


def test_a_template_gives_a_pdbqt_its_bond_orders_and_a_pasted_protein_serves(server: Server) -> None:
    protein = gzip.decompress(PROTEIN.read_bytes()).decode()
    fields = {
        "protein": protein,
        "ligand": DOCKING_DATA / "alanine_anilide.pdbqt",
        "template": "C[C@H](N)C(=O)Nc1ccccc1",
    }
    told = server.wait(server.dock({**fields, "poses": "1", "steps": "1"}))
    assert [row["id"] for row in told["results"]] == ["pasted-protein_alanine_anilide"]


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"protein": ""}, "protein", "choose a file, or paste a text"),
        ({"protein": ("", b"")}, "protein", "choose a file"),
        ({"protein": ("a.pdb", b"")}, "protein", "is empty"),
        ({"protein": "<!doctype html><p>404"}, "protein", "HTML"),
        ({"protein": LIGAND}, "protein", "is a ligand file"),
        ({"protein": ("a.pdb.gz", b"\x1f\x8b\x08nonsense")}, "protein", "gzip file is damaged"),
        ({"protein": ("a.pdb.gz", PROTEIN.read_bytes()[:9000])}, "protein", "cut short"),
        ({"protein": ("a.pdb.gz", gzip.compress(bytes(11 * LIMIT)))}, "protein", "larger than 20 MB when unpacked"),
        ({"protein": ("a.pdb.gz", 2 * gzip.compress(bytes(6 * LIMIT)))}, "protein", "larger than 20 MB when unpacked"),
        ({"protein": ("a.pdb", gzip.compress(PROTEIN.read_bytes()))}, "protein", "gzipped twice"),
        ({"ligand": ("a.sdf.gz.gz", gzip.compress(gzip.compress(LIGAND.read_bytes())))}, "ligand", "gzipped twice"),
        ({"ligand": " \n"}, "ligand", "choose a file, or paste a text"),
        ({"ligand": "CC(("}, "ligand", "^cannot parse SMILES 'CC\\(\\(': give SMILES or InChI, or the text or file"),
        ({"ligand": "x\ny\nz"}, "ligand", "and 2 more"),
        ({"ligand": PROTEIN}, "ligand", "looks like a protein"),
        ({"ligand": "CO\n" * (MAX_LIGANDS + 1)}, "ligand", "more than 100 ligands"),
        ({"template": "Zz"}, "template", "not a SMILES"),
        ({"poses": "101"}, "poses", "from 1 to 100"),
        ({"poses": "0"}, "poses", "from 1 to 100"),
        ({"steps": "1e3"}, "steps", "from 1 to 100"),
        ({"steps": "9" * 5000}, "steps", "from 1 to 100"),
        ({"seed": "-1"}, "seed", "whole number"),
        ({"site": "moon"}, "site", "anywhere, ligand, sphere, box"),
        ({"site": "ligand"}, "pocket", "choose a file"),
        ({"site": "ligand", "pocket": LIGAND, "margin": "-1"}, "margin", "Angstrom"),
        ({"site": "ligand", "pocket": "CCO"}, "site", "no 3-D|in no known|SMILES"),
        ({"site": "sphere", "center": "1,2", "radius": "9"}, "center", "three numbers"),
        ({"site": "sphere", "center": "1,2,3", "radius": "nan"}, "radius", "Angstrom"),
        ({"site": "sphere", "center": "1,2,3"}, "radius", "Angstrom"),
        ({"site": "sphere", "center": "999,2,3", "radius": "9"}, "site", "^no atom of the protein lies in"),
        ({"site": "box", "center": "1,2,3", "size": "9,9,-9"}, "site", "size of the box must be"),
    ],
)
def test_what_is_wrong_is_said_beside_its_field(server: Server, fields: Fields, field: str, words: str) -> None:
    status, told = server.post({"protein": PROTEIN, "ligand": "CCO", **fields})
    assert status == 422
    assert list(told["errors"]) == [field], told
    assert re.search(words, told["errors"][field]), told
    assert str(server.work) not in json.dumps(told)


def test_file_and_text_together_are_refused_and_all_errors_come_at_once(server: Server) -> None:
    body, kind = multipart({"protein": PROTEIN, "ligand": "CCO", "poses": "x"})
    more, _ = multipart({"ligand": LIGAND})
    status, _, content = server.ask("POST", "/jobs", body.removesuffix(b"--edge--\r\n") + more, Content_Type=kind)
    assert status == 422
    assert json.loads(content)["errors"].keys() == {"ligand", "poses"}
    assert "not both" in json.loads(content)["errors"]["ligand"]


# ---- the page in a browser ------------------------------------------------------------------------------------------


def visit(page: Page, url: str, width: int = 1280) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
    page.call("Page.navigate", url="about:blank")
    page.call("Page.navigate", url=url)
    page.wait("document.readyState === 'complete' && location.href !== 'about:blank'")


def choose_file(page: Page, selector: str, path: Path) -> None:
    found = page.call("Runtime.evaluate", expression=f"document.querySelector({selector!r})")
    page.call("DOM.setFileInputFiles", files=[str(path)], objectId=found["result"]["objectId"])


def downloaded(path: Path) -> Path:
    """The file, once it is there."""
    end = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < end, path
        time.sleep(0.05)
    return path


@pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER)
def test_the_page_uploads_docks_shows_and_downloads_in_a_browser(server: Server, tmp_path: Path) -> None:
    here = f"http://127.0.0.1:{server.port}/"
    error = "document.querySelector('#{}-error').textContent"
    with browser() as page:
        page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        visit(page, here)
        page.run("document.querySelector('#dock').focus()")
        page.press("Enter")
        page.wait(f"{error.format('ligand')} === 'Write a SMILES, or choose a file.'")
        assert page.run("document.activeElement.name") == "protein"
        choose_file(page, "#protein", PROTEIN)
        page.run("document.querySelector('#ligand').value = '/etc/passwd'")
        page.run("document.querySelector('#dock').click()")
        page.wait(f"{error.format('ligand')}.startsWith(\"Cannot parse SMILES '/etc/passwd'\")")
        assert page.run("document.querySelector('#ligand').getAttribute('aria-invalid')") == "true"
        assert page.run("document.querySelector('#protein').hasAttribute('aria-invalid')") is False
        assert page.run("document.activeElement.id") == "ligand"
        page.errors.clear()  # the browser calls every 422 an error

        page.run("document.querySelector('#example').click()")
        page.run("document.querySelector('[name=site][value=ligand]').click()")
        choose_file(page, "#pocket", LIGAND)
        page.run("for (const id of ['poses', 'steps']) document.getElementById(id).value = 2")
        page.run("document.querySelector('#dock').focus()")
        page.press("Enter")
        page.wait("location.hash.length > 20")
        page.wait("!document.querySelector('#report').hidden")
        assert page.run("document.querySelectorAll('#results tbody tr').length") == 2
        assert page.run("document.querySelector('#results .pill').title")  # what the flag means
        assert page.run("document.querySelector('#stage').textContent").startswith("Finished after")
        assert "not an affinity" in page.run("document.querySelector('main > .note').textContent")

        page.run("document.querySelector('#archive').click()")
        assert "docked/report.html" in zipfile.ZipFile(downloaded(tmp_path / "docked.zip")).namelist()

        kept, report = page.run("location.href"), page.run("document.querySelector('#report').href")
        visit(page, kept, width=390)  # the address leads back, also on a phone
        page.wait("!document.querySelector('#report').hidden")
        assert page.run("document.documentElement.scrollWidth") <= 390
        visit(page, report)
        page.wait("document.querySelectorAll('#complexes tbody tr').length === 2")
        page.run("document.querySelector('a[href$=\"poses.sdf\"]').click()")
        assert downloaded(tmp_path / "poses.sdf").read_text().count("$$$$") == 2
        assert page.run("self.origin") == "null"  # apart from the page: scripts of a report reach nothing of it
        assert page.run(f"fetch({here!r}).then(() => 'read', () => 'refused')") == "refused"
        page.errors = [error for error in page.errors if "Content Security Policy" not in error]

        visit(page, kept)
        page.wait("document.querySelector('#delete').textContent === 'Delete'")
        page.run("document.querySelector('#delete').click()")
        page.wait("location.hash === '' && document.querySelector('#docking').hidden")
        assert page.errors == []
        assert [url for url in page.requests if not url.startswith((here, "data:", "about:", "blob:"))] == []
