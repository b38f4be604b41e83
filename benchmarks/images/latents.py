"""What latents cost an image model: per network call, under guidance, and the prior's share of sampling."""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from core.config import RunConfig
from core.config_file import load_config
from core.errors import RequestError
from core.guidance import Guidance, ScoreField
from core.interfaces import Denoiser, Domain
from core.pipeline import Pipeline, Request
from core.registry import get_domain

CONFIG = Path(__file__).parents[2] / "experiments" / "images" / "imagenet64.yaml"
RESERVE = 2.0  # memory for activations and all else, in multiples of the weights'

ONE_CALL, TWO_CALLS = "guided, one call of 2B", "guided, two calls of B"
Works = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class Costs:
    """CPU seconds of one batch by name, one per round. said: the model in words; calls: of a whole sampling."""

    said: str
    calls: int
    seconds: Mapping[str, list[float]]


def latent_config(options: argparse.Namespace) -> RunConfig:
    """The experiment, at ``--width`` or the largest that fits into the free memory. Raises ConfigError, RequestError
    where the experiment has no latents."""
    config = load_config(options.config)
    if config.latents.kind != "discrete":
        raise RequestError(f"{options.config}: this experiment has no discrete latents, whose cost is asked for")
    width = options.width or config.model.denoiser.model_channels
    while True:
        config = load_config(options.config, [f"model.denoiser.model_channels={width}"])
        with torch.device("meta"):
            need = 4 * sum(_parameters(build()) for name, build in _domain(config).parts().items() if name != "encoder")
        if options.width or (1 + RESERVE) * need < free_memory() or width % 64 or width == 64:
            return config
        width -= 64


def free_memory() -> float:
    """Bytes of memory that nothing uses."""
    return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _domain(config: RunConfig) -> Domain:
    return get_domain(config.domain)(config)


def _parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def without_latents(config: RunConfig, denoiser: Denoiser) -> Denoiser:
    """The same network without latents, on the same weights in memory."""
    latents = config.latents.model_copy(update={"kind": "none"})
    plain = _domain(config.model_copy(update={"latents": latents})).denoiser()
    own = plain.state_dict().keys()
    plain.load_state_dict({name: value for name, value in denoiser.state_dict().items() if name in own}, assign=True)
    return plain


def works(config: RunConfig, batch_size: int, seed: int, channels_last: bool) -> tuple[str, Works]:
    """The model in words, and what is measured by name."""
    torch.manual_seed(seed)
    domain = _domain(config)
    pipeline = Pipeline(domain, {"denoiser": domain.denoiser(), "prior": domain.prior()})
    denoiser, prior, ids = pipeline.denoiser, pipeline.networks["prior"], range(batch_size)
    if channels_last:
        denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    plain = without_latents(config, denoiser).eval()
    batch = domain.request(ids)
    latents = pipeline.latents_for(Request(seed=seed), batch)
    assert latents is not None
    state, times, _ = pipeline.start(batch, config.sampling.steps, seed)
    fields = {
        "without latents": ScoreField(plain, pipeline.geometry, batch),
        "with latents": pipeline.field(batch, latents, Guidance()),
        "dropped": pipeline.field(batch, latents.dropped(), Guidance()),
        "guided": pipeline.field(batch, latents, Guidance(latents=1.0)),
    }

    def score(*names: str) -> Callable[[], object]:
        return lambda: [fields[name].score(state, times[0]) for name in names]

    made: Works = {
        "without latents": score("without latents"),
        "with latents": score("with latents"),
        ONE_CALL: score("guided"),
        TWO_CALLS: score("with latents", "dropped"),
        "prior": lambda: pipeline.latents_for(Request(seed=seed + 1), batch),
    }
    sizes = [f"{_parameters(part):,}" for part in (plain, denoiser, prior)]
    said = (
        f"width {config.model.denoiser.model_channels}, {config.model.resolution} pixels, batch {batch_size}; "
        f"parameters of the denoiser {sizes[0]}, with {config.latents.count} latents {sizes[1]}, prior {sizes[2]}"
    )
    return said, made


@torch.no_grad()
def measure(options: argparse.Namespace) -> Costs:
    """All in turns in this process, after a round to warm up."""
    config = latent_config(options)
    said, made = works(config, options.batch, options.seed, options.channels_last)
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for number in range(options.rounds + 1):
        for name, work in made.items():
            start = time.process_time()
            work()
            if number:
                seconds[name].append(time.process_time() - start)
        if number:
            latest = ", ".join(f"{name} {values[-1]:.3f}" for name, values in seconds.items())
            print(f"latents round {number}, CPU s: {latest}", file=sys.stderr, flush=True)
    return Costs(said, 2 * config.sampling.steps - 1, seconds)


def spread(values: list[float], shown: str = ".3f") -> str:
    """Median (lowest to highest)."""
    return f"{statistics.median(values):{shown}} ({min(values):{shown}} to {max(values):{shown}})"


def report(costs: Costs) -> str:
    """Markdown: CPU seconds, and the ratios of the rounds."""
    seconds = costs.seconds

    def over(name: str, other: str) -> list[float]:
        return [a / b for a, b in zip(seconds[name], seconds[other], strict=True)]

    guided = zip(seconds["prior"], seconds[ONE_CALL], strict=True)
    share = [100 * prior / (prior + costs.calls * call) for prior, call in guided]
    rows = [f"| {name} | {spread(values)} |" for name, values in seconds.items()]
    return "\n".join([
        costs.said, "", "| cost of one batch | CPU s |", "| --- | ---: |", *rows, "",
        f"with / without latents: {spread(over('with latents', 'without latents'))}",
        f"one call of 2B / two calls of B: {spread(over(ONE_CALL, TWO_CALLS))}",
        f"prior's share of sampling with {costs.calls} guided calls: {spread(share, '.2f')} %",
    ])  # fmt: skip
