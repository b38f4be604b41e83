"""The main job from nothing: dock a real complex, train toy and digits with and without latents, write a page.

    python -m experiments.demo -o out/demo [--seeds 1] [--workers 2] [--samples 2000]

What is finished is not done again: an interrupted demo goes on where it stopped.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.checkpoint import read_manifest
from core.files import write_text
from experiments.docking_demo import DockingDemo, run_docking_demo
from experiments.measure import digits_reference, toy_references
from experiments.report import write_report

HERE = Path(__file__).parent
# The longest first, so that both workers finish together.
MODELS = {
    "digits-disco": HERE / "images" / "digits-disco.yaml",
    "toy-disco": HERE / "toy" / "disco.yaml",
    "digits-plain": HERE / "images" / "digits-plain.yaml",
    "toy-plain": HERE / "toy" / "plain.yaml",
}


@dataclass(frozen=True)
class Job:
    """One model of one seed: trained and measured in processes of their own."""

    model: str
    seed: int
    folder: Path

    @property
    def measured(self) -> Path:
        return self.folder / "measured.json"

    def run(self, samples: int, threads: int) -> dict[str, Any]:
        """Train, measure, and return the measurement."""
        config = str(MODELS[self.model])
        self._call(threads, "core.cli", "train", config, "-o", str(self.folder), f"seed={self.seed}")
        about = {"samples": samples, "weights": dict(read_manifest(self.folder / "model").weights)}
        if not self.measured.exists() or not about.items() <= self._read().items():
            where = (str(self.folder), "-o", str(self.measured), "--samples", str(samples))
            self._call(threads, "experiments.measure", *where)
        return self._read()

    def _read(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads(self.measured.read_text(encoding="utf-8"))
        return result

    def _call(self, threads: int, module: str, *arguments: str) -> None:
        """Run a module; what it says goes to stderr under this job's name."""
        command = [sys.executable, "-m", module, *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=HERE.parent) as process:
            for line in process.stderr or ():
                print(f"[{self.model} seed {self.seed}] {line}", end="", file=sys.stderr, flush=True)
        if process.returncode:
            raise RuntimeError(f"{self.model} seed {self.seed}: '{' '.join(command)}' ended with {process.returncode}")


def run_jobs(
    jobs: list[Job], docking: Path, samples: int, workers: int
) -> tuple[dict[str, list[dict[str, Any]]], DockingDemo]:
    """Measurements of every model, one per seed; and the docking demo, in its folder."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ThreadPoolExecutor(workers) as pool:
        docked = pool.submit(run_docking_demo, docking)
        results = list(pool.map(lambda job: job.run(samples, threads), jobs))
    grouped: dict[str, list[dict[str, Any]]] = {}
    for job, result in zip(jobs, results, strict=True):
        grouped.setdefault(job.model, []).append(result)
    return grouped, docked.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=Path("out/demo"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--samples", type=int, default=2000, help="generated per model and measurement")
    options = parser.parse_args()
    started, out = time.perf_counter(), options.out.resolve()
    jobs = [Job(model, seed, out / "runs" / f"{model}-{seed}") for seed in range(options.seeds) for model in MODELS]
    print(f"docking; training and measuring {len(jobs)} models; with {options.workers} workers", file=sys.stderr)
    results, docking = run_jobs(jobs, out / "docking", options.samples, options.workers)
    references = {"toy": toy_references(options.samples), "digits": {"real digits": digits_reference(options.samples)}}
    record = {
        "samples": options.samples, "models": results, "references": references,
        "docking": {"rmsd": docking.rmsd, "about": docking.said},
    }  # fmt: skip
    write_text(out / "results.json", json.dumps(record, indent=1))
    page = write_report(record, {job.model: job.folder for job in jobs if job.seed == 0}, docking, out)
    print(f"\n{time.perf_counter() - started:.0f} s. Look at {page}", file=sys.stderr)


if __name__ == "__main__":
    main()
