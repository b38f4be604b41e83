"""``disco app``: the command."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from core.console import Device, Overrides, Quiet, start_logging
from core.errors import ConfigError
from domains.docking.dock import options as o

PACKAGES = ("starlette", "uvicorn", "python_multipart")


def app(
    overrides: Overrides = None,
    model: o.Model = None,
    host: Annotated[str, typer.Option(help="Address to serve; others than this machine's own let others in.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8765,
    max_mb: Annotated[int, typer.Option("--max-mb", min=1, help="Most that one docking may upload, megabytes.")] = 20,
    workdir: Annotated[
        Path | None, typer.Option(help="Folder that keeps the results [default: one that goes when this ends].")
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Dock from a web page on this machine: choose files, dock, look at the poses, download them. Ctrl-C ends it."""
    from core.registry import get_domain

    start_logging(quiet)
    get_domain("docking")  # says which packages are missing
    check_packages()
    from domains.docking.dock.app.serve import serve

    serve(
        model, tuple(overrides or ()), device, host=host, port=port, max_bytes=max_mb * 1_000_000, workdir=workdir,
        open_browser=open_browser,
    )  # fmt: skip


def check_packages() -> None:
    """Raises ConfigError where a package of the extra ``app`` is missing."""
    for name in PACKAGES:
        if find_spec(name) is None:
            raise ConfigError(f"the docking page needs the package '{name}': pip install 'disco-diff[app]'")
