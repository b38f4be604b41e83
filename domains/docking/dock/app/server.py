"""The page and what it asks for."""

import html
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from core import __version__
from core.errors import StorageError
from core.pages import filled
from domains.docking.config import DockingConfig
from domains.docking.dock.app.guard import Guard, Hosts
from domains.docking.dock.app.order import MAX_LIGANDS, MAX_POSES, MAX_STEPS, FormError, Order, read_order
from domains.docking.dock.app.queue import ARCHIVE, UNEXPECTED, Docking, Full, Queue
from domains.docking.dock.record import REPORT
from domains.docking.dock.report.page import ASSETS as REPORT_ASSETS

ASSETS = Path(__file__).parent / "page"
REPORT_SCRIPTS = ("dom.js", "words.js")
FIELDS = 40  # more than the form has
# The report runs its own scripts, as an origin of its own: whatever it holds, it cannot touch the page around it.
REPORT_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'; sandbox allow-scripts allow-downloads"
)
FILE_POLICY = "default-src 'none'; frame-ancestors 'none'; sandbox"
TYPES = {".json": "application/json", ".csv": "text/csv", ".sdf": "chemical/x-mdl-sdfile", ".pdb": "chemical/x-pdb"}
NO_SUCH = "there is no such docking here: it was deleted, or the server was started anew"


class Pages:
    """The answers, for one queue."""

    def __init__(self, queue: Queue, max_bytes: int) -> None:
        self.queue, self.max_bytes = queue, max_bytes
        self.reading = CapacityLimiter(1)  # files are read one order at a time
        model = queue.pipeline.config.model
        assert isinstance(model, DockingConfig)
        self.raw_chirality = model.quirks.raw_chirality
        known = {
            "model": queue.pipeline.name or "a model without a name", "version": __version__, "max_bytes": max_bytes,
            "max_mb": f"{max_bytes / 1e6:g}", "max_poses": MAX_POSES, "max_steps": MAX_STEPS,
            "max_ligands": MAX_LIGANDS,
        }  # fmt: skip
        self.page = _filled((ASSETS / "page.html").read_text(encoding="utf-8"), known)
        self.style = "".join((folder / "style.css").read_text(encoding="utf-8") for folder in (REPORT_ASSETS, ASSETS))
        scripts = (*(REPORT_ASSETS / name for name in REPORT_SCRIPTS), ASSETS / "app.js")
        self.script = "\n".join(path.read_text(encoding="utf-8") for path in scripts)

    async def index(self, request: Request) -> Response:
        """The page."""
        return Response(self.page, media_type="text/html")

    async def style_sheet(self, request: Request) -> Response:
        """The report's style and what the page adds."""
        return Response(self.style, media_type="text/css")

    async def program(self, request: Request) -> Response:
        """The script of the page, behind those of the report that it shares."""
        return Response(self.script, media_type="text/javascript")

    async def submit(self, request: Request) -> Response:
        """Take an order: 202 with its id, 422 with what is wrong by field, 429 where too many wait."""
        busy = HTTPException(429, "too many dockings are waiting already: try again in a while", {"Retry-After": "30"})
        if self.queue.full:
            raise busy
        async with request.form(max_files=3, max_fields=FIELDS, max_part_size=self.max_bytes) as form:
            id_, folder = self.queue.new_folder()
            kept = False
            try:
                order: Order = await to_thread.run_sync(
                    read_order, form, folder / "inputs", self.max_bytes, self.raw_chirality, limiter=self.reading
                )
                docking = self.queue.submit(id_, folder, order)
                kept = True
            except FormError as error:
                return JSONResponse({"error": "some fields need a second look", "errors": error.errors}, 422)
            except Full:
                raise busy from None
            except StorageError:
                raise HTTPException(507, "the disk of the server is full or cannot be written") from None
            finally:
                if not kept:
                    shutil.rmtree(folder, ignore_errors=True)
        return JSONResponse(self._told(docking), 202, {"Location": f"/jobs/{docking.id}"})

    async def status(self, request: Request) -> Response:
        """How far a docking is."""
        return JSONResponse(self._told(self._docking(request)))

    async def delete(self, request: Request) -> Response:
        """Stop and forget a docking."""
        await to_thread.run_sync(self.queue.remove, self._docking(request))
        return Response(status_code=204)

    async def file(self, request: Request) -> Response:
        """One file of the results; only names that were listed when the docking ended are known."""
        path = self._docking(request).files.get(request.path_params["path"])
        if path is None:
            raise HTTPException(404, "there is no such file")
        if path.name == REPORT:
            return FileResponse(path, media_type="text/html", headers=_apart(REPORT_POLICY))
        kind = TYPES.get(path.suffix, "application/octet-stream")
        return FileResponse(path, media_type=kind, headers=_attachment(path.name))

    async def archive(self, request: Request) -> Response:
        """Everything as one file."""
        docking = self._docking(request)
        if not docking.files:
            raise HTTPException(404, "there are no results yet")
        path = docking.folder / ARCHIVE
        return FileResponse(path, media_type="application/zip", headers=_attachment(ARCHIVE))

    def _docking(self, request: Request) -> Docking:
        found = self.queue.get(request.path_params["id"])
        if found is None:
            raise HTTPException(404, NO_SUCH)
        return found

    def _told(self, docking: Docking) -> dict[str, Any]:
        """What the page shows of a docking."""
        hide, shown = docking.order.labels.hide, ("id", "poses", "confidence", "confidence_band", "flags", "pb_valid")
        return {
            "id": docking.id, "title": docking.order.title, "state": docking.state, "stage": docking.stage,
            "ahead": self.queue.ahead(docking), "share": round(docking.share, 3), "error": docking.error,
            "ligands": docking.order.ligands, "seconds": round(docking.seconds, 1),
            "results": [{name: row[name] for name in shown} for row in docking.summary.rows],
            "failures": [hide({"id": f.id, "stage": f.stage, "reason": f.reason}) for f in docking.summary.failures],
            "report": f"/jobs/{docking.id}/files/{REPORT}" if REPORT in docking.files else None,
            "archive": f"/jobs/{docking.id}/{ARCHIVE}" if docking.files else None,
        }  # fmt: skip


def make_app(queue: Queue, hosts: Hosts, max_bytes: int) -> ASGIApp:
    """The whole application behind its guard."""
    pages = Pages(queue, max_bytes)
    routes = [
        Route("/", pages.index),
        Route("/style.css", pages.style_sheet),
        Route("/app.js", pages.program),
        Route("/jobs", pages.submit, methods=["POST"]),
        Route("/jobs/{id}", pages.status),
        Route("/jobs/{id}", pages.delete, methods=["DELETE"]),
        Route(f"/jobs/{{id}}/{ARCHIVE}", pages.archive),
        Route("/jobs/{id}/files/{path:path}", pages.file),
    ]
    handlers: Mapping[Any, Any] = {HTTPException: _refused, ClientDisconnect: _gone, 500: _broken}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Guard(app, hosts, max_bytes)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # to nobody: the upload was broken off


async def _broken(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": UNEXPECTED}, 500)


def _attachment(name: str) -> dict[str, str]:
    return {"Content-Disposition": f"attachment; filename*=utf-8''{quote(name)}", **_apart(FILE_POLICY)}


def _apart(policy: str) -> dict[str, str]:
    """Headers of a sandboxed answer; browsers show none in a tab of its own while it asks for an opener policy."""
    return {"Content-Security-Policy": policy, "Cross-Origin-Opener-Policy": "unsafe-none"}


def _filled(page: str, known: Mapping[str, Any]) -> str:
    return filled(page, {name: html.escape(str(value)) for name, value in known.items()})
