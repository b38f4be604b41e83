"""Runs a scoring program in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from core.errors import DataError

START, PER_POSE = 300, 60  # seconds, far above what is needed
# Its standard input is a pipe that this process holds: it ends when we do, however we end.
GUARDED = (
    "import os, runpy, sys, threading\n"
    "threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()\n"
    "del sys.argv[0]\n"
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


def scores_of(worker: str, folder: Path, job: dict[str, Any], poses: int) -> Float64[np.ndarray, "p c"]:
    """Columns of scores [P, C] from a worker beside this file, NaN where it found none.

    It is given the folder with its input and ``job.json``, and writes ``scores.json``: a list of numbers or null per
    pose. Raises DataError, with its last words, where it fails, takes too long or writes anything else.
    """
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    # -P: the names of files in the worker's folder must not hide modules. One thread: callers run several processes.
    command = [sys.executable, "-P", "-c", GUARDED, str(Path(__file__).with_name(f"{worker}.py")), str(folder)]
    theirs, ours = os.pipe()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=START + PER_POSE * poses, check=False,
            stdin=theirs, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise DataError(f"{worker} gave no answer within {error.timeout:.0f} s") from error
    finally:
        os.close(theirs)
        os.close(ours)
    scores = folder / "scores.json"
    if done.returncode or not scores.exists():
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise DataError(f"{worker} ended with code {done.returncode}: {said}")
    try:
        rows = np.array(json.loads(scores.read_text(encoding="utf-8")), dtype=np.float64)  # null becomes NaN
    except (ValueError, TypeError) as error:
        raise DataError(f"{worker} wrote no table of scores: {error}") from error
    if rows.ndim != 2 or len(rows) != poses:
        raise DataError(f"{worker} wrote scores of shape {rows.shape} for {poses} poses")
    return rows
