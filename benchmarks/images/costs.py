"""One cost of an image network, measured in this process: ``python -m benchmarks.images.costs train --side ours``."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.images.sides import CLASSES, NETS, VARIANTS, Peer, arrange, check_same, image_domain, inputs
from benchmarks.images.sides import our_denoiser as build_ours
from benchmarks.measurement import Clock, Measurement
from core.errors import DiscoError
from core.pipeline import Pipeline, Request
from core.rng import SampleStreams
from core.training.stage import build_stage
from core.types import Batch

PEER = "peer"


def measure_train(options: argparse.Namespace) -> Measurement:
    """Loss, backward pass and Adam, per step, after one step to warm up. Both sides have the same optimiser."""
    parameters, losses = _training(options)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, foreach=True)

    def step(clock: Clock, number: int) -> None:
        with clock.part("forward"):
            optimizer.zero_grad(set_to_none=True)
            loss = losses(number)
        with clock.part("backward"):
            loss.backward()
        with clock.part("optimiser"):
            optimizer.step()

    step(Clock(), 0)
    clock = Clock()
    for number in range(1, options.repeats + 1):
        step(clock, number)
    return clock.stop(options.repeats)


def _training(options: argparse.Namespace) -> tuple[list[Tensor], Callable[[int], Tensor]]:
    """What is trained, and its mean loss at the given step."""
    domain, (images, _, label) = image_domain(options), inputs(options)
    if options.side == PEER:
        peer = Peer(options.peer)
        network, loss, one_hot = peer.network(domain).train(), peer.losses.EDMLoss(), functional.one_hot(label, CLASSES)
        return list(network.parameters()), lambda _: loss(net=network, images=images, labels=one_hot).mean()
    stage = build_stage("denoiser", domain, {}).train()
    arrange(stage, options.side)

    def ours(number: int) -> Tensor:
        ids = torch.arange(options.batch) + number * options.batch
        batch, streams = Batch(ids, {"x": images}, label), SampleStreams(options.seed, ids, "noise", "cpu")
        return stage(batch, streams)["loss"].mean()

    return list(stage.parameters()), ours


@torch.no_grad()
def measure_call(options: argparse.Namespace) -> Measurement:
    """One evaluation of the preconditioned network, after one to warm up."""
    domain, (images, levels, label) = image_domain(options), inputs(options)
    call: Callable[[], Tensor]
    if options.side == PEER:
        network, one_hot = Peer(options.peer).network(domain).eval(), functional.one_hot(label, CLASSES)
        call = lambda: network(images, levels, one_hot)  # noqa: E731
    else:
        denoiser, batch = build_ours(domain, options.side).eval(), Batch(torch.arange(options.batch), label=label)
        call = lambda: denoiser.denoise(images, levels, None, batch)  # noqa: E731
    call()
    clock = Clock()
    for _ in range(options.repeats):
        call()
    return clock.stop(options.repeats)


@torch.no_grad()
def measure_heun(options: argparse.Namespace) -> Measurement:
    """One batch of samples by Heun's method, after two steps to warm up."""
    domain, (images, _, label) = image_domain(options), inputs(options)
    sample: Callable[[int], object]
    if options.side == PEER:
        peer, one_hot = Peer(options.peer), functional.one_hot(label, CLASSES)
        network = peer.network(domain).eval()
        sample = lambda steps: peer.generate.edm_sampler(network, images, one_hot, num_steps=steps)  # noqa: E731
    else:
        pipeline = Pipeline(domain, {"denoiser": build_ours(domain, options.side)})
        sample = lambda steps: pipeline.generate(Request(count=options.batch, steps=steps))  # noqa: E731
    sample(2)
    clock = Clock()
    sample(options.steps)
    return clock.stop()


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
    parser.add_argument("--net", choices=NETS, default="ddpmpp")
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2, help="training steps or network calls per measurement")
    parser.add_argument("--steps", type=int, default=18, help="of Heun's method")


def main() -> int:
    """Print one measurement as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=MEASURE)
    parser.add_argument("--side", choices=(*VARIANTS, PEER), default="ours")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    add_sizes(parser)
    options = parser.parse_args()
    if options.peer is None and (options.side == PEER or options.command == "check"):
        parser.error("give the peer's folder with --peer")
    try:
        print(json.dumps(asdict(MEASURE[options.command](options))))
    except DiscoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
