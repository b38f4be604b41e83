"""What all commands share: options of one meaning, words to the user, the command to run again."""

import logging
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY.SUB=VALUE]...", help="Settings that beat the file's.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda:0.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only warnings.")]


def start_logging(quiet: bool) -> None:
    """What the library says goes to stderr; only warnings where it is to be quiet."""
    level = logging.WARNING if quiet else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)


def this_command(without: str = "") -> str:
    """The command line of this process, to run again; perhaps without one option."""
    processes = os.environ.get("WORLD_SIZE")
    launcher = ["torchrun", "--nproc-per-node", processes, "-m", "core.cli"] if processes else ["disco"]
    return shlex.join([*launcher, *(argument for argument in sys.argv[1:] if argument != without)])


def say(text: str) -> None:
    """To the user, on stderr."""
    typer.echo(text, err=True)


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM does in the block what Ctrl-C does: KeyboardInterrupt, here with the number of the signal."""

    def stop(signum: int, frame: Any) -> None:
        raise KeyboardInterrupt(signum)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
