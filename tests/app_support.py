"""What the tests of the docking page share: a server with an untrained model, and a client for its addresses."""

import http.client
import io
import json
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from domains.docking.dock.app import serve
from domains.docking.dock.app.guard import Hosts
from domains.docking.dock.app.queue import Queue, WatchedPipeline
from domains.docking.dock.app.server import make_app
from domains.docking.domain import DockingDomain
from tests.support import DOCKING_DATA, tiny_config

PROTEIN, LIGAND = DOCKING_DATA / "6w70_protein.pdb.gz", DOCKING_DATA / "6w70_ligand.sdf"
LIMIT = 2_000_000  # bytes
PATIENCE = 120.0  # seconds
Fields = Mapping[str, "str | Path | tuple[str, bytes]"]  # text, file, or name and content of a file


@dataclass(frozen=True)
class Server:
    """One that runs, and where its files are."""

    port: int
    work: Path

    def ask(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named, encode_chunked=named.get("Transfer-Encoding") == "chunked")
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def get(self, path: str) -> bytes:
        status, _, content = self.ask("GET", path)
        assert status == 200, content
        return content

    def post(self, fields: Fields, **headers: str) -> tuple[int, dict[str, Any]]:
        body, kind = multipart(fields)
        status, _, content = self.ask("POST", "/jobs", body, Content_Type=kind, **headers)
        return status, json.loads(content)

    def dock(self, fields: Fields) -> str:
        """Submit a form that is right; the id."""
        status, told = self.post({"protein": PROTEIN, "poses": "2", "steps": "2", **fields})
        assert status == 202, told
        return told["id"]

    def dock_everything(self) -> dict[str, Any]:
        """A finished docking: one ligand that works and one that does not, with everything that can be asked for."""
        text = "CCO ethanol\nnot-a-molecule broken\n"
        return self.wait(self.dock({"ligand": text, "check": "on", "minimize": "on", "trajectory": "on", "seed": "3"}))

    def status(self, id_: str) -> dict[str, Any]:
        return json.loads(self.get(f"/jobs/{id_}"))

    def wait(self, id_: str, *states: str) -> dict[str, Any]:
        """Its status when it is in one of some states, by default any final one."""
        end = time.monotonic() + PATIENCE
        while (told := self.status(id_))["state"] not in (states or ("done", "failed", "stopped")):
            assert time.monotonic() < end, told
            time.sleep(0.05)
        return told


def multipart(fields: Fields) -> tuple[bytes, str]:
    """Body and content type of a form."""
    parts = b""
    for name, value in fields.items():
        given = (value.name, value.read_bytes()) if isinstance(value, Path) else value
        label, content = ("", given.encode()) if isinstance(given, str) else given
        file = "" if isinstance(given, str) else f'; filename="{label}"'
        parts += f'--edge\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n"
    return parts + b"--edge--\r\n", "multipart/form-data; boundary=edge"


@cache
def tiny_pipeline() -> WatchedPipeline:
    """Untrained networks: what is tested here does not depend on their quality."""
    domain = DockingDomain(tiny_config("docking"))
    torch.manual_seed(0)
    return WatchedPipeline(domain, {name: build() for name, build in domain.parts().items()}, name="tiny")


@contextmanager
def serving(pipeline: WatchedPipeline, work: Path, waiting: int = 20) -> Iterator[Server]:
    turns = Queue(pipeline, work, waiting)
    with serve.listening("127.0.0.1", 0) as listener:
        server = serve.make_server(make_app(turns, Hosts.of("127.0.0.1"), LIMIT))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Server(listener.getsockname()[1], work)
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            turns.close()


def archive_of(server: Server, told: Mapping[str, Any]) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(server.get(told["archive"]))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
