"""From the command line to a server that runs until it is stopped."""

import logging
import socket
import tempfile
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from core.console import say, sigterm_interrupts
from core.errors import CheckpointError, RequestError
from core.files import storage_errors
from domains.docking.dock.app.guard import Hosts, is_loopback
from domains.docking.dock.app.queue import Queue, WatchedPipeline
from domains.docking.dock.app.server import make_app
from domains.docking.dock.command import docking_model
from domains.docking.dock.settings import DockSettings
from domains.docking.dock.worker import Worker

logger = logging.getLogger("disco")
ANY = ("0.0.0.0", "::")  # all addresses of this machine
CONNECTIONS = 64  # at once; more are turned away


def serve(
    model: Path | str | None, overrides: tuple[str, ...], device: str, *, host: str, port: int, max_bytes: int,
    workdir: Path | None, open_browser: bool,
) -> None:  # fmt: skip
    """Load the model and serve the page until Ctrl-C or SIGTERM. A work folder of our own is taken away at the end.

    Raises CheckpointError or ConfigError for a model that cannot be used, RequestError for an address that cannot be
    served, StorageError.
    """
    folder = docking_model(model)
    pipeline = WatchedPipeline.from_pretrained(folder, device, overrides)
    if not isinstance(pipeline, WatchedPipeline) or pipeline.config.domain != "docking":
        raise CheckpointError(f"{folder}: a model of '{pipeline.config.domain}', not of docking")
    Worker(pipeline, DockSettings())  # what the model cannot do, or lacks, is said now
    with listening(host, port) as listener, _stoppable(), _work_folder(workdir) as work:
        name = socket.gethostname() if host in ANY else f"[{host}]" if ":" in host else host
        address = f"http://{name}:{listener.getsockname()[1]}/"
        say(f"docking page: {address}  (Ctrl-C ends it)")
        if not is_loopback(host):
            logger.warning("whoever reaches this machine can dock on it and fill its disk: do not serve strangers")
        if open_browser:
            webbrowser.open(address)
        queue = Queue(pipeline, work)
        try:
            make_server(make_app(queue, Hosts.of(host), max_bytes)).run(sockets=[listener])
        finally:
            queue.close()


def make_server(app: ASGIApp) -> uvicorn.Server:
    """A server that says little about itself and trusts no header of a proxy."""
    config = uvicorn.Config(
        app, lifespan="off", ws="none", log_level="warning", access_log=False, server_header=False,
        proxy_headers=False, limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=3,
    )  # fmt: skip
    return uvicorn.Server(config)


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket on this address. Raises RequestError where it cannot be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family)
    except OSError as error:
        raise RequestError(
            f"cannot serve {host} port {port}: {error.strerror or error}; choose another with --host, --port"
        ) from error
    with listener:
        yield listener


@contextmanager
def _work_folder(workdir: Path | None) -> Iterator[Path]:
    if workdir is None:
        with tempfile.TemporaryDirectory(prefix="disco-app-", ignore_cleanup_errors=True) as path:
            yield Path(path).resolve()
    else:
        with storage_errors(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
        yield workdir.resolve()


@contextmanager
def _stoppable() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block, cleaning up on the way."""
    try:
        with sigterm_interrupts():
            yield
    except KeyboardInterrupt:
        say("stopped")
