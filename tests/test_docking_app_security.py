"""What the docking page refuses, and what it never tells: names, origins, sizes, paths, places on this machine."""

import gzip
import http.client
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import StorageError
from domains.docking.dock.app import queue
from domains.docking.dock.app.guard import Hosts, is_loopback
from domains.docking.dock.app.labels import Labels
from tests.app_support import LIGAND, LIMIT, PATIENCE, PROTEIN, Server, archive_of, multipart, serving, tiny_pipeline


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tiny_pipeline(), tmp_path_factory.mktemp("work")) as running:
        yield running


@pytest.fixture(scope="module")
def docked(server: Server) -> dict[str, Any]:
    return server.dock_everything()


# ---- nothing of this machine is read or told ------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["protein", "ligand", "pocket"])
def test_a_path_as_text_is_never_opened(
    server: Server, field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, source in {"secret.smi": "CCO", "secret.sdf": LIGAND.read_text()}.items():
        (tmp_path / name).write_text(source)
    (tmp_path / "secret.pdb").write_bytes(gzip.decompress(PROTEIN.read_bytes()))
    monkeypatch.chdir(tmp_path)
    paths = [
        "/etc/passwd",
        "~/.ssh/id_rsa",
        "../x.sdf",
        "secret.smi",
        "secret.sdf",
        "secret.pdb",
        f"{tmp_path}/secret.sdf",
    ]
    for path in paths:
        fields = {"protein": PROTEIN, "ligand": "CCO", "site": "ligand", "pocket": LIGAND, field: path}
        status, told = server.post(fields)
        assert status == 422, path
        assert list(told["errors"]) == ["site" if field == "pocket" else field], told


@pytest.mark.parametrize(
    "label",
    [
        "../../evil.pdb",
        "..\\..\\evil.pdb",
        "/etc/evil.pdb",
        "..",
        ".lock",
        "con",
        "a" * 300,
        "é ü.pdb",
        "%2e%2e%2fevil",
    ],
)
def test_names_of_uploads_are_labels_only(server: Server, label: str) -> None:
    before = set(server.work.parent.rglob("*evil*"))
    protein = (label, gzip.decompress(PROTEIN.read_bytes()))
    ligand = (label, LIGAND.read_bytes())
    told = server.wait(server.dock({"protein": protein, "ligand": ligand, "poses": "1", "steps": "1"}))
    assert told["state"] == "done", told
    assert len(told["results"]) == 1
    folder = server.work / told["id"]
    assert all(folder in path.parents for path in set(server.work.parent.rglob("*evil*")) - before)
    assert {len(list((folder / "inputs" / name).iterdir())) for name in ("protein", "ligand")} == {1}
    assert all(".." not in name and name.startswith("docked/") for name in archive_of(server, told))


def test_no_answer_and_no_file_tells_where_things_are_on_this_machine(server: Server, docked: dict[str, Any]) -> None:
    files = archive_of(server, docked)
    said = {**files, "page": server.get("/"), "status": json.dumps(docked).encode(), "names": "\n".join(files).encode()}
    for where in {server.work, Path.home(), Path.cwd(), Path(tempfile.gettempdir())}:
        assert [
            name
            for name, content in said.items()
            if f"{where}/".encode() in content or str(server.work).encode() in content
        ] == []


def test_labels_stand_for_paths() -> None:
    labels = Labels({Path("/x/inputs/a.pdb"): "a.pdb"}, [Path("/x")])
    assert labels.hide("/x/inputs/a.pdb: no") == "a.pdb: no"
    assert labels.hide("open '/x/y/z.txt': no") == "open '...': no"
    assert labels.hide({"a": [f"{Path.home()}/.ssh, at /xylol", 3]}) == {"a": ["..., at /xylol", 3]}


def test_an_unexpected_error_is_told_without_its_words(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(*_: Any, **__: Any) -> None:
        raise OSError(f"cannot open {server.work}/secret")

    monkeypatch.setattr(queue, "run", explode)
    told = server.wait(server.dock({"ligand": "CCO"}))
    assert told["state"] == "failed"
    assert told["error"] == queue.UNEXPECTED
    assert "secret" in caplog.text

    def no_room(*_: Any, **__: Any) -> None:
        raise StorageError(f"cannot write {server.work}/x/docked/y: the disk is full")

    monkeypatch.setattr(queue, "run", no_room)
    assert server.wait(server.dock({"ligand": "CCO"}))["error"] == "cannot write ...: the disk is full"
    monkeypatch.setattr("domains.docking.dock.app.order.Receptors", explode)
    status, answer = server.post({"protein": PROTEIN, "ligand": "CCO"})
    assert status == 422
    assert "unexpected OSError" in answer["errors"]["protein"]
    monkeypatch.setattr("domains.docking.dock.app.server.read_order", explode)
    assert server.post({"protein": PROTEIN, "ligand": "CCO"}) == (500, {"error": queue.UNEXPECTED})
    assert len(list(server.work.iterdir())) == len(
        {path.name for path in server.work.iterdir() if (path / "inputs").is_dir()}
    )


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_only_names_of_this_server_are_answered(server: Server) -> None:
    for host in ("127.0.0.1", "localhost", f"LOCALHOST:{server.port}", "localhost.:9000", "[::1]:1"):
        assert server.ask("GET", "/", Host=host)[0] == 200
    for host in ("evil.example", f"127.0.0.1.evil.example:{server.port}", "192.168.0.7", "localhost@evil.example", "["):
        for method, path in (("GET", "/"), ("GET", "/jobs/x"), ("POST", "/jobs"), ("DELETE", "/jobs/x")):
            assert server.ask(method, path, Host=host)[0] == 421


def test_an_open_server_answers_addresses_but_not_foreign_names() -> None:
    hosts = Hosts.of("0.0.0.0")
    assert hosts.serve("192.168.0.7:8765")
    assert hosts.serve("[fe80::1]:8765")
    assert hosts.serve("localhost")
    assert not hosts.serve("evil.example")
    assert not hosts.serve("")
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "192.168.0.7", "evil.example")] == [False] * 4


def test_other_sites_can_change_nothing(server: Server, docked: dict[str, Any]) -> None:
    here = f"http://127.0.0.1:{server.port}"
    for foreign in ("http://evil.example", "null", f"http://localhost:{server.port}", "http://127.0.0.1:1", "file://"):
        for method, path in (("POST", "/jobs"), ("DELETE", f"/jobs/{docked['id']}")):
            assert server.ask(method, path, Origin=foreign, Host=f"127.0.0.1:{server.port}")[0] == 403
    assert server.ask("POST", "/jobs", Sec_Fetch_Site="cross-site")[0] == 403
    assert server.post({"ligand": "CCO"}, Origin=here)[0] == 422
    assert "Access-Control-Allow-Origin" not in server.ask("GET", "/", Origin="http://evil.example")[1]
    assert server.status(docked["id"])["state"] == "done"


def test_large_uploads_are_refused_while_they_come(server: Server) -> None:
    body, kind = multipart({"protein": ("a.pdb", bytes(LIMIT)), "ligand": "CCO"})
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.putrequest("POST", "/jobs")
    connection.putheader("Content-Length", str(10**15))
    connection.endheaders()
    assert connection.getresponse().status == 413  # before anything was sent
    pieces = (body[start : start + 100_000] for start in range(0, len(body), 100_000))
    status, _, content = server.ask("POST", "/jobs", pieces, Content_Type=kind, Transfer_Encoding="chunked")
    assert (status, json.loads(content)) == (413, {"error": "the upload is larger than 2 MB"})


def test_files_and_jobs_that_are_not_there_are_not_found(server: Server, docked: dict[str, Any]) -> None:
    base = f"/jobs/{docked['id']}"
    for path in (
        "/jobs", "/jobs/", "/jobs/unknown", "/jobs/unknown/docked.zip", "/jobs/unknown/files/report.html", "/docs",
        f"{base}/files/", f"{base}/files", f"{base}/files/6w70_protein_ethanol", f"{base}/files/6w70_protein_ethanol/",
        f"{base}/files/.lock", f"{base}/files/../inputs/ligand/pasted-ligand.smi", f"{base}/files/..%2finputs",
        f"{base}/files/%2e%2e/%2e%2e/x", f"{base}/files//etc/passwd", f"{base}/files/%2fetc%2fpasswd", f"{base}/inputs",
        f"{base}/files/report.html%00", "/../../etc/passwd", "/style.css/../app.js", "/page.html",
    ):  # fmt: skip
        status, headers, content = server.ask("GET", path)
        assert status in (404, 405), path
        assert "Content-Security-Policy" in headers
        assert str(server.work).encode() not in content


def test_every_answer_has_strict_headers_and_the_page_is_its_own(server: Server, docked: dict[str, Any]) -> None:
    for path in ("/", "/style.css", "/app.js", "/jobs/x", docked["report"], docked["archive"], "/nothing"):
        _, headers, content = server.ask("GET", path)
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert "server" not in {name.lower() for name in headers}
        if path in ("/", "/style.css", "/app.js"):
            assert "unsafe" not in headers["Content-Security-Policy"]
            content = content.replace(b'"http://www.w3.org/2000/svg"', b"")  # a name that nothing is fetched from
            assert not re.search(rb"(https?:)?//[a-z]|@import|url\(", content)
    _, headers, _ = server.ask("GET", docked["report"])
    assert "sandbox allow-scripts" in headers["Content-Security-Policy"]
    assert "allow-same-origin" not in headers["Content-Security-Policy"]
