"""One measurement: what it cost, how that is printed and read, and how a measuring program is run."""

import contextlib
import functools
import json
import os
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec

from core.errors import DataError, DiscoError, RequestError

P = ParamSpec("P")

STARTED = "DISCO_BENCHMARK_STARTED"  # environment variable: when the process was started, seconds of time.time()


@dataclass(frozen=True)
class Measurement:
    """What one process said of itself: seconds, MB (1024^2 bytes), CPU seconds of named parts."""

    cpu: float
    wall: float
    peak_mb: float
    parts: Mapping[str, float] = field(default_factory=dict)

    @staticmethod
    def parse(output: str, source: str) -> "Measurement":
        """From the last line of a program's output; what else the line holds is left aside.

        Raises DataError, naming ``source``, where that line is no such JSON.
        """
        lines = output.strip().splitlines()
        try:
            said = json.loads(lines[-1])
            cpu, wall, peak = (float(said[name]) for name in ("cpu", "wall", "peak_mb"))
            parts = {str(name): float(value) for name, value in said.get("parts", {}).items()}
            return Measurement(cpu, wall, peak, parts)
        except (IndexError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{source}: the last line of output is not JSON with cpu, wall and peak_mb ({error!r}); "
                "a peer must print it at its end, and everything else to stderr"
            ) from error


def errors_told(main: Callable[P, int]) -> Callable[P, int]:
    """A program whose DiscoErrors are one line on stderr and exit status 1."""

    @functools.wraps(main)
    def told(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return main(*args, **kwargs)
        except DiscoError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1

    return told


def run_command(command: tuple[str, ...], threads: int) -> Measurement:
    """Run a measuring program; its stderr is shown only where it fails.

    Raises RequestError where it cannot be started or ends with an error.
    """
    environment, name = {**os.environ, "OMP_NUM_THREADS": str(threads), STARTED: str(time.time())}, shlex.join(command)
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except OSError as error:
        raise RequestError(f"cannot start '{name}': {error}") from error
    if done.returncode:
        raise RequestError(f"'{name}' ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return Measurement.parse(done.stdout, name)


def peak_memory() -> float:
    """Peak resident memory of this process in MB; ru_maxrss, the way elsewhere, starts at the parent's."""
    with contextlib.suppress(OSError):
        return float(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


class Clock:
    """CPU seconds of named parts of this process. wait: for what was asked of another device, before time is read;
    peak: MB that were in use at most."""

    def __init__(self, wait: Callable[[], None] = lambda: None, peak: Callable[[], float] = peak_memory) -> None:
        self.parts: dict[str, float] = {}
        self.wait, self.peak = wait, peak
        self.wait()
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.parts[name] = self.parts.get(name, 0.0) + time.process_time() - start

    def stop(self, repeats: int = 1) -> Measurement:
        """All since the clock was made, per repeat."""
        self.wait()
        cpu, wall = time.process_time() - self.cpu, time.perf_counter() - self.wall
        parts = {name: seconds / repeats for name, seconds in self.parts.items()}
        return Measurement(cpu / repeats, wall / repeats, self.peak(), parts)
