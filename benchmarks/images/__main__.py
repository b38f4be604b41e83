"""What the image networks cost beside EDM's own code, and what latents add.

    python -m benchmarks.images [--peer EDM_CHECKOUT] [--net ddpmpp|ncsnpp|adm] [--width 64] [--batch 8] [--rounds 5]
        [--threads 1] [--cases train,call,heun] [--variants ours,bf16,compile,...] [-o FOLDER]
    python -m benchmarks.images --device cuda --peer EDM_CHECKOUT --fp16 --net adm --resolution 64 --width 192
        --batch 32 --repeats 10 --variants ours,bf16,bf16-compile --peak-tflops 989
    python -m benchmarks.images --latents [--config imagenet64.yaml] [--width 192] [--batch 1] [--channels-last]

The first measures a training step (loss, backward pass, Adam), a network call and 18 steps of Heun's method. Every
measurement is a process of its own; the sides run in turns, after a check that the peer gives the same outputs under
the same weights. Variants: our network with channels-last weights, with torch's lower matmul precision, in bf16,
compiled. On a GPU the peer runs in its half precision too (--fp16). TFLOP/s are those of the network without latents
(benchmarks.images.budget; backward twice forward); --peak-tflops sets them in relation to the device's. The second
measures, in turns in one process, a call of the experiment's denoiser without and with latents, guidance in one call
and in two, and the prior. Compare CPU seconds (user + system), on a GPU wall: on a CPU that suffers from other
processes.
"""

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.images import latents
from benchmarks.images.budget import budgets
from benchmarks.images.costs import PEERS, add_sizes
from benchmarks.images.sides import VARIANTS, image_domain
from benchmarks.measurement import Measurement, run_command
from core.errors import DiscoError
from core.files import write_text

CASES = ("train", "call", "heun")
UNITS = {"train": "step", "call": "call", "heun": "batch of samples"}
Found = dict[str, dict[str, list[Measurement]]]  # by case and side


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sizes(parser)
    parser.add_argument("--width", type=int, help="base channels (64; with --latents the experiment's)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of every process")
    parser.add_argument("--cases", default=",".join(CASES), help=f"of {', '.join(CASES)} (all)")
    parser.add_argument("--variants", default="ours", help=f"of {', '.join(VARIANTS)} (ours)")
    parser.add_argument("--fp16", action="store_true", help="the peer in its half precision too")
    parser.add_argument("--peak-tflops", type=float, help="of the device, at the precision of interest")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latents", action="store_true", help="measure what latents cost instead")
    parser.add_argument("--config", type=Path, default=latents.CONFIG, help="experiment for --latents")
    parser.add_argument("--channels-last", action="store_true", help="weights of --latents")
    parser.add_argument("-o", "--out", type=Path, help="folder for the Markdown and all numbers as JSON")
    parser.set_defaults(batch=None)
    options = parser.parse_args(arguments)
    options.cases, options.variants = options.cases.split(","), options.variants.split(",")
    unknown = sorted({*options.cases} - {*CASES}) + sorted({*options.variants} - {*VARIANTS})
    if unknown or min(options.rounds, options.repeats, options.threads) < 1:
        parser.error(f"unknown case or variant '{unknown[0]}'" if unknown else "rounds, repeats, threads: at least 1")
    if options.latents and options.peer:
        parser.error("a peer has no latents: leave --peer or --latents away")
    options.width = options.width if options.latents else options.width or 64
    options.batch = options.batch or (1 if options.latents else 8)
    return options


def command(case: str, side: str, options: argparse.Namespace) -> tuple[str, ...]:
    """The process of one measurement."""
    names = ("net", "resolution", "width", "batch", "repeats", "steps", "seed", "device")
    sizes = {name: getattr(options, name) for name in names}
    if options.peer is not None:
        sizes["peer"] = options.peer
    rest = (part for name, value in sizes.items() for part in (f"--{name}", str(value)))
    return (sys.executable, "-m", "benchmarks.images.costs", case, "--side", side, *rest)


def compare(options: argparse.Namespace, found: Found) -> None:
    """Fill ``found``, all sides in turns. Raises DiscoError where a measurement fails; what was measured stays."""
    peers = list(PEERS) if options.fp16 else ["peer"]
    sides = [*options.variants, *(peers if options.peer else [])]
    if options.peer:
        run_command(command("check", "peer", options), options.threads)
        print("the peer gives the same outputs under the same weights", file=sys.stderr)
    for case in options.cases:
        rows = found[case] = {side: [] for side in sides}
        for number in range(options.rounds):
            for side in sides:
                rows[side].append(run_command(command(case, side, options), options.threads))
                took = f"{rows[side][-1].cpu:.2f} CPU s, {rows[side][-1].wall:.2f} s"
                print(f"{case} round {number + 1} {side}: {took}", file=sys.stderr, flush=True)


def table(found: Mapping[str, Mapping[str, list[Measurement]]]) -> str:
    """Markdown: median of every side, and the median (lowest to highest) of its ratio to the first side of a round."""
    lines = ["| case | quantity | side | median | ratio to the first side |", "| --- | --- | --- | ---: | ---: |"]
    for case, sides in found.items():
        first = next(iter(sides.values()))
        for name, quantity in _quantities(case, first).items():
            for side, measured in sides.items():
                ratios = [quantity(b) / quantity(a) for a, b in zip(first, measured, strict=False) if quantity(a) > 0]
                if ratios:
                    median = statistics.median(map(quantity, measured))
                    lines.append(f"| {case} | {name} | {side} | {median:.4g} | {latents.spread(ratios)} |")
    return "\n".join(lines)


def _quantities(case: str, measured: list[Measurement]) -> dict[str, Callable[[Measurement], float]]:
    rows: dict[str, Callable[[Measurement], float]] = {
        f"CPU s per {UNITS[case]}": lambda m: m.cpu,
        f"wall s per {UNITS[case]}": lambda m: m.wall,
        "peak MB": lambda m: m.peak_mb,
    }
    names = dict.fromkeys(name for m in measured for name in m.parts)
    return rows | {f"CPU s, {name}": lambda m, name=name: m.parts.get(name, 0.0) for name in names}


def throughput(found: Mapping[str, Mapping[str, list[Measurement]]], options: argparse.Namespace) -> str:
    """Markdown: images per second of every side by the wall, and the arithmetic of the network alone that this is."""
    forward, _ = budgets(image_domain(options).config)["denoiser"]
    calls = {"train": 3, "call": 1, "heun": 2 * options.steps - 1}  # a backward pass is two forward passes
    lines = ["| case | side | images per wall s | TFLOP/s |", "| --- | --- | ---: | ---: |"]
    for case, sides in found.items():
        for side, measured in sides.items():
            if measured:
                rate = options.batch / statistics.median(m.wall for m in measured)
                speed = rate * forward * calls[case] / 1e12
                share = f" ({speed / options.peak_tflops:.0%} of the peak)" if options.peak_tflops else ""
                lines.append(f"| {case} | {side} | {rate:.4g} | {speed:.3g}{share} |")
    return "\n".join(lines)


def report(name: str, text: str, results: Any, options: argparse.Namespace) -> None:
    """Print; with ``-o`` write the text and everything measured."""
    print(text)
    if options.out is None:
        return
    settings = {key: str(value) for key, value in vars(options).items()} | {
        "torch": torch.__version__, "machine": platform.processor() or platform.machine(), "cores": os.cpu_count(),
    }  # fmt: skip
    write_text(options.out / f"{name}.md", text + "\n")
    write_text(options.out / f"{name}.json", json.dumps({"settings": settings, "results": results}, indent=1) + "\n")


def main(arguments: Sequence[str]) -> int:
    """Exit status: 1 where a measurement failed, after the table of those before it."""
    options = parse(arguments)
    found: Found = {}
    status = 0
    try:
        if options.latents:
            torch.set_num_threads(options.threads)
            costs = latents.measure(options)
            report("image-latents", latents.report(costs), asdict(costs), options)
            return 0
        compare(options, found)
    except DiscoError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    if any(measured for sides in found.values() for measured in sides.values()):
        numbers = {c: {s: [asdict(m) for m in ms] for s, ms in sides.items()} for c, sides in found.items()}
        report(f"images-{options.net}", f"{table(found)}\n\n{throughput(found, options)}", numbers, options)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
