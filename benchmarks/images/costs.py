"""One cost of an image network, measured in this process: ``python -m benchmarks.images.costs train --side ours``."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.images.sides import (
    CLASSES,
    NETS,
    VARIANTS,
    Peer,
    check_same,
    image_domain,
    inputs,
    lay_out,
    our_denoiser,
)
from benchmarks.measurement import Clock, Measurement, errors_told
from core.pipeline import Pipeline, Request
from core.precision import autocast, low_dtype
from core.rng import SampleStreams
from core.training.distributed import resolve_device
from core.training.stage import build_stage
from core.types import Batch

PEERS = {"peer": False, "peer-fp16": True}  # EDM's code, and whether in its half precision


def clock(options: argparse.Namespace) -> Clock:
    """Of this process; of the GPU's memory and work, too, where it computes there."""
    if options.device.type == "cpu":
        return Clock()
    torch.cuda.reset_peak_memory_stats()
    return Clock(torch.cuda.synchronize, lambda: torch.cuda.max_memory_allocated() / 1024**2)


def measure_train(options: argparse.Namespace) -> Measurement:
    """Loss, backward pass and Adam, per step, after one step to warm up. Both sides have the same optimiser."""
    parameters, losses = _training(options)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, foreach=True)

    def step(part: Callable[[str], AbstractContextManager[None]], number: int) -> None:
        with part("forward"):
            optimizer.zero_grad(set_to_none=True)
            loss = losses(number)
        with part("backward"):
            loss.backward()
        with part("optimiser"):
            optimizer.step()

    step(lambda _: nullcontext(), 0)
    measured = clock(options)
    # On a GPU the parts overlap: what this process does says nothing of them.
    part = measured.part if options.device.type == "cpu" else lambda _: nullcontext()
    for number in range(1, options.repeats + 1):
        step(part, number)
    return measured.stop(options.repeats)


def _training(options: argparse.Namespace) -> tuple[list[Tensor], Callable[[int], Tensor]]:
    """What is trained, and its mean loss at the given step."""
    domain, (images, _, label) = image_domain(options), inputs(options)
    if options.side in PEERS:
        peer = Peer(options.peer)
        network = peer.network(domain, fp16=PEERS[options.side]).to(options.device).train()
        loss, one_hot = peer.losses.EDMLoss(), functional.one_hot(label, CLASSES)
        return list(network.parameters()), lambda _: loss(net=network, images=images, labels=one_hot).mean()
    variant, stage = VARIANTS[options.side], build_stage("denoiser", domain, {}).to(options.device).train()
    lay_out(stage, variant)
    if variant.compile:
        for part in stage.parts().values():
            part.compile()
    dtype = low_dtype(options.device, variant.precision)

    def ours(number: int) -> Tensor:
        ids = torch.arange(options.batch, device=options.device) + number * options.batch
        batch, streams = Batch(ids, {"x": images}, label), SampleStreams(options.seed, ids, "noise", options.device)
        with autocast(options.device, dtype):
            return stage(batch, streams)["loss"].mean()

    return list(stage.parameters()), ours


@torch.no_grad()
def measure_call(options: argparse.Namespace) -> Measurement:
    """One evaluation of the preconditioned network, after one to warm up."""
    domain, (images, levels, label) = image_domain(options), inputs(options)
    if options.side in PEERS:
        network = Peer(options.peer).network(domain, fp16=PEERS[options.side]).to(options.device).eval()
        one_hot = functional.one_hot(label, CLASSES)

        def call() -> object:
            return network(images, levels, one_hot)

    else:
        variant, batch = VARIANTS[options.side], Batch(torch.arange(options.batch, device=options.device), label=label)
        denoiser = our_denoiser(domain, variant).to(options.device).eval()
        if variant.compile:
            denoiser.compile()
        dtype = low_dtype(options.device, variant.precision)

        def call() -> object:
            with autocast(options.device, dtype):
                return denoiser({"x": images}, levels, None, batch)

    call()
    measured = clock(options)
    for _ in range(options.repeats):
        call()
    return measured.stop(options.repeats)


@torch.no_grad()
def measure_heun(options: argparse.Namespace) -> Measurement:
    """One batch of samples by Heun's method, after two steps to warm up."""
    variant = VARIANTS.get(options.side, VARIANTS["ours"])
    domain, (images, _, label) = image_domain(options, variant), inputs(options)
    sample: Callable[[int], object]
    if options.side in PEERS:
        peer, one_hot = Peer(options.peer), functional.one_hot(label, CLASSES)
        network = peer.network(domain, fp16=PEERS[options.side]).to(options.device).eval()
        sample = lambda steps: peer.generate.edm_sampler(network, images, one_hot, num_steps=steps)  # noqa: E731
    else:
        pipeline = Pipeline(domain, {"denoiser": our_denoiser(domain, variant)}, options.device)
        sample = lambda steps: pipeline.generate(Request(count=options.batch, steps=steps))  # noqa: E731
    sample(2)
    measured = clock(options)
    sample(options.steps)
    return measured.stop()


def measure_check(options: argparse.Namespace) -> Measurement:
    """That both sides are the same network; the largest difference is told on stderr."""
    clock = Clock()
    print(f"largest difference under the same weights: {check_same(options):.1e}", file=sys.stderr)
    return clock.stop()


MEASURE: Mapping[str, Callable[[argparse.Namespace], Measurement]] = {
    "train": measure_train, "call": measure_call, "heun": measure_heun, "check": measure_check,
}  # fmt: skip


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """Options that the comparison hands on to every measurement."""
    parser.add_argument("--peer", type=Path, help="a checkout of EDM, which is imported")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--net", choices=NETS, default="ddpmpp")
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2, help="training steps or network calls per measurement")
    parser.add_argument("--steps", type=int, default=18, help="of Heun's method")


@errors_told
def main() -> int:
    """Print one measurement as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=MEASURE)
    parser.add_argument("--side", choices=(*VARIANTS, *PEERS), default="ours")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    add_sizes(parser)
    options = parser.parse_args()
    if options.peer is None and (options.side in PEERS or options.command == "check"):
        parser.error("give the peer's folder with --peer")
    options.device = resolve_device(options.device)
    print(json.dumps(asdict(MEASURE[options.command](options))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
