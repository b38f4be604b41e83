"""What docking costs: start-up, reading a complex, ranked poses, a training step; beside a peer's, where one is given.

    python -m benchmarks.docking [--cases start,sample-10] [--rounds 2] [--peer COMMAND] [-o FOLDER]

Every measurement is a process of its own that prints one line of JSON: ``cpu`` (user + system seconds of all threads),
``wall`` (seconds), ``peak_mb`` (of the whole process), ``run_peak_mb`` (of the measured part) and ``parts`` (CPU
seconds by name). COMMAND is a program that takes the arguments of a case (``sample --samples 10 --steps 20 --complex
DIR --seed 0``) and prints such a line; both sides run in turns. Compare CPU seconds: wall suffers from other processes.
"""

import argparse
import contextlib
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from core.convert import convert
from core.errors import DataError, DiscoError, RequestError
from core.pipeline import Pipeline, Request
from core.rng import SampleStreams
from core.training.stage import build_stage
from domains.docking.batch import DockingBatch
from domains.docking.complex import Complex
from domains.docking.data import read_complex
from domains.docking.evaluation import confidences, poses_of
from domains.docking.pose import Pose, pose_of

OWN = (sys.executable, "-m", "benchmarks.docking", "_ours")
STARTED = "DISCO_BENCHMARK_STARTED"  # environment variable: when the process was started, seconds of time.time()
COMPLEX = Path("/tmp/disco_data/train/ddex_6w70")
SHARED = Path(os.environ.get("DISCO_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


@dataclass(frozen=True)
class Case:
    """One kind of measurement. units: what ``cpu`` is divided by in the table (samples; steps are divided already)."""

    name: str
    arguments: tuple[str, ...]
    units: int
    unit: str


_ALL = (
    Case("start", ("startup",), 1, "start"),
    Case("prepare", ("prepare",), 1, "complex"),
    Case("sample-10", ("sample", "--samples", "10", "--steps", "20"), 10, "sample"),
    Case("sample-40", ("sample", "--samples", "40", "--steps", "20"), 40, "sample"),
    Case("train", ("train", "--copies", "8", "--steps", "3"), 1, "step"),
)
CASES = {case.name: case for case in _ALL}


@dataclass(frozen=True)
class Measurement:
    """What one process said of itself: seconds, MB (1024^2 bytes), CPU seconds of named parts."""

    cpu: float
    wall: float
    peak_mb: float
    run_peak_mb: float | None = None
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
            run_peak = said.get("run_peak_mb")
            parts = {str(name): float(value) for name, value in said.get("parts", {}).items()}
            return Measurement(cpu, wall, peak, None if run_peak is None else float(run_peak), parts)
        except (IndexError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{source}: the last line of output is not JSON with cpu, wall and peak_mb ({error!r}); "
                "a peer must print it at its end, and everything else to stderr"
            ) from error


@dataclass(frozen=True)
class Result:
    """Measurements of one case; peer is empty where none was given, else as long as ours."""

    case: Case
    ours: list[Measurement]
    peer: list[Measurement]


def run_command(command: tuple[str, ...], threads: int) -> Measurement:
    """Run a measuring program; its stderr is shown only where it fails.

    Raises RequestError where it cannot be started or ends with an error.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), STARTED: str(time.time())}
    name = shlex.join(command)
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except OSError as error:
        raise RequestError(f"cannot start '{name}': {error}") from error
    if done.returncode:
        raise RequestError(f"'{name}' ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return Measurement.parse(done.stdout, name)


def compare(case: Case, model: Path, peer: tuple[str, ...], options: argparse.Namespace) -> Result:
    """Ours (a model folder) and the peer's in turns."""
    result, own = Result(case, [], []), (*OWN, "--model", str(model))
    for number in range(options.rounds):
        arguments = (*case.arguments, "--complex", str(options.complex), "--seed", str(number))
        for name, command, found in (("ours", own, result.ours), ("peer", peer, result.peer)):
            if command:
                found.append(run_command((*command, *arguments), options.threads))
                print(f"{case.name} round {number + 1} {name}: {found[-1].cpu:.1f} CPU s", file=sys.stderr)
    return result


def table(results: list[Result]) -> str:
    """Markdown: medians of both sides, and the median (lowest to highest) of the ratios of the rounds."""
    lines = ["| case | quantity | ours | peer | peer / ours |", "| --- | --- | ---: | ---: | ---: |"]
    for result in results:
        for name, quantity in _quantities(result).items():
            ours = statistics.median(map(quantity, result.ours))
            peer = ratio = ""
            if result.peer:
                peer = f"{statistics.median(map(quantity, result.peer)):.4g}"
                ratios = [quantity(b) / quantity(a) for a, b in zip(result.ours, result.peer, strict=True)]
                ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            lines.append(f"| {result.case.name} | {name} | {ours:.4g} | {peer} | {ratio} |")
    return "\n".join(lines)


def _quantities(result: Result) -> dict[str, Callable[[Measurement], float]]:
    """Rows of a case: what every measurement of both sides has and is above zero."""
    units, unit = result.case.units, result.case.unit
    rows: dict[str, Callable[[Measurement], float]] = {
        f"CPU s per {unit}": lambda m: m.cpu / units,
        f"wall s per {unit}": lambda m: m.wall / units,
        "peak MB": lambda m: m.peak_mb,
        "peak MB of the run": lambda m: m.run_peak_mb or 0.0,
    }
    names = dict.fromkeys(name for m in result.ours for name in m.parts)
    rows |= {f"CPU s, {name}": lambda m, name=name: m.parts.get(name, 0.0) for name in names}  # type: ignore[misc]
    return {name: row for name, row in rows.items() if all(row(m) > 0 for m in (*result.ours, *result.peer))}


def report(results: list[Result], options: argparse.Namespace) -> None:
    """Print the table; with ``-o`` write it to docking.md and everything measured to docking.json."""
    text = table(results)
    print(text)
    if options.out is None:
        return
    options.out.mkdir(parents=True, exist_ok=True)
    settings = {
        "complex": str(options.complex), "rounds": options.rounds, "threads": options.threads, "peer": options.peer,
        "torch": torch.__version__, "machine": platform.processor() or platform.machine(), "cores": os.cpu_count(),
    }  # fmt: skip
    said = {"settings": settings, "results": [asdict(result) for result in results]}
    (options.out / "docking.md").write_text(text + "\n")
    (options.out / "docking.json").write_text(json.dumps(said, indent=1) + "\n")


class Clock:
    """CPU seconds of named parts of this process, and its peak memory."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self.cpu, self.wall = time.process_time(), time.perf_counter()
        with contextlib.suppress(OSError):  # Linux: start the peak anew
            Path("/proc/self/clear_refs").write_text("5")

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.parts[name] = self.parts.get(name, 0.0) + time.process_time() - start

    def stop(self, repeats: int = 1) -> Measurement:
        """All since the clock was made, per repeat."""
        cpu, wall = time.process_time() - self.cpu, time.perf_counter() - self.wall
        run_peak = None
        with contextlib.suppress(OSError):
            status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            run_peak = float(status["VmHWM"].split()[0]) / 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
        parts = {name: seconds / repeats for name, seconds in self.parts.items()}
        return Measurement(cpu / repeats, wall / repeats, peak, run_peak, parts)


def _complex(pipeline: Pipeline, folder: Path, seed: int) -> Complex:
    """The complex, with random numbers where the networks read a language model's."""
    each = read_complex(folder)
    width, residues = pipeline.config.model.language_dim, each.graph["receptor"]
    generator = torch.Generator().manual_seed(seed)
    if width:
        residues.language = 0.3 * torch.randn(len(residues.x), width, generator=generator)
    return each


def measure_start(options: argparse.Namespace) -> Measurement:
    """Imports and networks, all from the start of the process."""
    clock = Clock()
    clock.cpu, clock.parts["imports"] = 0.0, time.process_time()
    clock.wall -= time.time() - float(os.environ[STARTED])
    with clock.part("networks"):
        Pipeline.from_pretrained(options.model, device="cpu")
    return clock.stop()


def measure_prepare(options: argparse.Namespace) -> Measurement:
    """Files to graph, with the conformer laid on the true pose."""
    clock = Clock()
    read_complex(options.complex)
    return clock.stop()


def anchor(pipeline: Pipeline, each: Complex) -> None:
    """Replace the translation score by the exact one of a ligand that belongs at its true centre.

    Random weights let the ligand drift out of reach of the protein, where there are no edges to compute; this keeps
    their number as with a trained model and changes nothing else. A peer must do the same.
    """
    home = each.graph["ligand"].crystal.mean(0)

    def replace_score(_: Any, inputs: tuple[Any, ...], scores: dict[str, Any]) -> dict[str, Any]:
        state, t = inputs[:2]
        sigma = pipeline.geometry.sigma(state, t)["tr"]
        return {**scores, "tr": ((home - state.centroid()) / sigma**2).to(scores["tr"])}

    pipeline.denoiser.register_forward_hook(replace_score)


def measure_sample(options: argparse.Namespace) -> Measurement:
    """Ranked poses of one complex that is read already."""
    pipeline = Pipeline.from_pretrained(options.model, device="cpu")
    each = _complex(pipeline, options.complex, options.seed)
    anchor(pipeline, each)

    def run(clock: Clock, samples: int, steps: int) -> None:
        request = Request(seed=options.seed, steps=steps)
        batch = poses_of(each, samples)
        with clock.part("prior"):
            latents = pipeline.latents_for(request, batch)
        with clock.part("denoising"):
            poses, _ = pipeline.solve_in_pieces(batch, latents, request)
        with clock.part("confidence"):
            confidences(pipeline.networks["confidence"], poses, batch)  # type: ignore[arg-type]

    run(Clock(), 2, 1)  # warms up
    clock = Clock()
    run(clock, options.samples, options.steps)
    return clock.stop()


def measure_train(options: argparse.Namespace) -> Measurement:
    """Steps of denoiser and encoder on copies of one complex, per step, after one to warm up."""
    pipeline = Pipeline.from_pretrained(options.model, device="cpu")
    each = _complex(pipeline, options.complex, options.seed)
    stage = build_stage("denoiser", pipeline.domain, {}).train()
    optimizer = torch.optim.AdamW(stage.parameters(), lr=1e-3, foreach=True)

    def step(clock: Clock, number: int) -> None:
        with clock.part("data"):
            ids = torch.arange(options.copies) + number * options.copies
            clean = Pose.concatenate([pose_of(each.graph, each.graph["ligand"].matched)] * options.copies)
            batch = DockingBatch(ids, (each,), (0,) * options.copies, clean)
        with clock.part("forward"):
            optimizer.zero_grad(set_to_none=True)
            loss = stage(batch, SampleStreams(options.seed, ids, "noise", "cpu"))["loss"].mean()
        with clock.part("backward"):
            loss.backward()
        with clock.part("optimiser"):
            optimizer.step()

    step(Clock(), 0)
    clock = Clock()
    for number in range(1, options.steps + 1):
        step(clock, number)
    return clock.stop(options.steps)


MEASURE: Mapping[str, Callable[[argparse.Namespace], Measurement]] = {
    "startup": measure_start, "prepare": measure_prepare, "sample": measure_sample, "train": measure_train,
}  # fmt: skip


def own_main(arguments: list[str]) -> None:
    """The process of one measurement of ours."""
    parser = argparse.ArgumentParser(prog="benchmarks.docking _ours")
    parser.add_argument("command", choices=MEASURE)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--complex", type=Path, default=COMPLEX)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, required=True)
    options = parser.parse_args(arguments)
    print(json.dumps(asdict(MEASURE[options.command](options))))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), help=f"of {', '.join(CASES)} (all)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of every process")
    parser.add_argument("--complex", type=Path, default=COMPLEX, help="folder with protein.pdb and ligand.sdf")
    parser.add_argument("--weights", type=Path, default=SHARED / "golden" / "docking", help="checkpoints to convert")
    parser.add_argument("--peer", default="", help="command line of a program to compare with")
    parser.add_argument("-o", "--out", type=Path, help="folder for docking.md and docking.json")
    options = parser.parse_args(arguments)
    options.cases = options.cases.split(",")
    unknown = set(options.cases) - CASES.keys()
    if unknown or options.rounds < 1:
        parser.error(f"unknown case '{min(unknown)}'" if unknown else "at least one round is needed")
    return options


def main(arguments: list[str]) -> int:
    """Exit status: 1 where a measurement failed, after the table of those before it."""
    results: list[Result] = []
    try:
        if arguments[:1] == ["_ours"]:
            own_main(arguments[1:])
            return 0
        options = parse(arguments)
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "model"
            convert(options.weights, model)
            for name in options.cases:
                results.append(compare(CASES[name], model, tuple(shlex.split(options.peer)), options))
    except DiscoError as error:
        print(f"error: {error}", file=sys.stderr)
        if not results:
            return 1
    report(results, options)
    return int(len(results) < len(options.cases))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
