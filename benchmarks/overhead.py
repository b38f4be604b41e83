"""What the framework costs: training and sampling of the digits U-Net beside a plain PyTorch loop on the same networks.

    python -m benchmarks.overhead [--rounds 7] [--steps 30]

Both sides run in turns in one process; every round gives one ratio framework / plain, and the median is printed. The
plain loops do the same arithmetic (straight-through Gumbel-Softmax, EDM loss, Adam, EMA; Heun) in the shortest way.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from core.config import RunConfig
from core.config_file import load_config
from core.pipeline import Pipeline, Request
from core.registry import get_domain
from core.training.distributed import World
from core.training.loop import Trainer, TrainingJob
from core.training.stage import build_stage
from core.types import Batch, Latents

CONFIG = Path(__file__).parent.parent / "experiments" / "images" / "digits-disco.yaml"
IMAGES = 64  # per sampling call
SAMPLING_STEPS = 18


class PlainModel(nn.Module):
    """The networks of the digits model without anything around them."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        domain = get_domain(config.domain)(config)
        denoiser = domain.denoiser()
        self.network: nn.Module = denoiser.network  # type: ignore[assignment]
        self.encoder, self.prior = domain.encoder(), domain.prior()
        self.noise, self.latents = config.model.noise, config.latents

    def denoise(self, x: Tensor, sigma: Tensor, latents: Latents, label: Tensor) -> Tensor:
        """EDM's preconditioned network."""
        data = self.noise.sigma_data
        total = (sigma**2 + data**2).view(-1, 1, 1, 1)
        batch = Batch(torch.arange(len(x)), label=label)
        raw = self.network(x / total.sqrt(), sigma.log() / 4, latents, batch)
        return data**2 / total * x + sigma.view(-1, 1, 1, 1) * data / total.sqrt() * raw

    def loss(self, y: Tensor, label: Tensor) -> Tensor:
        """One training step's loss."""
        sigma = (torch.randn(len(y)) * self.noise.std + self.noise.mean).exp()
        logits = self.encoder(Batch(torch.arange(len(y)), {"x": y})).values
        codes = functional.gumbel_softmax(logits, tau=self.latents.temperature, hard=True)
        latents = Latents(codes, torch.rand(len(y)) >= self.latents.drop)
        noisy = y + sigma.view(-1, 1, 1, 1) * torch.randn_like(y)
        data = self.noise.sigma_data
        weight = ((sigma**2 + data**2) / (sigma * data) ** 2).view(-1, 1, 1, 1)
        return (weight * (self.denoise(noisy, sigma, latents, label) - y) ** 2).mean()

    @torch.no_grad()
    def sample(self, label: Tensor) -> Tensor:
        """Codes from the prior, then Heun."""
        size, noise = len(label), self.noise
        batch, codes = Batch(torch.arange(size), label=label), torch.empty(size, 0, dtype=torch.int64)
        for slot in range(self.latents.count):
            probabilities = self.prior(batch, codes).values[:, slot].softmax(-1)
            codes = torch.cat([codes, torch.multinomial(probabilities, 1)], dim=1)
        latents = Latents(functional.one_hot(codes, self.latents.codes).float(), torch.ones(size, dtype=torch.bool))
        ramp = torch.linspace(0, 1, SAMPLING_STEPS)
        high, low = noise.sigma_max ** (1 / noise.rho), noise.sigma_min ** (1 / noise.rho)
        levels = [*((high + ramp * (low - high)) ** noise.rho).tolist(), 0.0]
        x = torch.randn(size, 1, 8, 8) * levels[0]
        for sigma, after in pairwise(levels):
            slope = (x - self.denoise(x, torch.full((size,), sigma), latents, label)) / sigma
            ahead = x + (after - sigma) * slope
            if after > 0:
                second = (ahead - self.denoise(ahead, torch.full((size,), after), latents, label)) / after
                ahead = x + (after - sigma) * (slope + second) / 2
            x = ahead
        return x


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def framework_training(config: RunConfig, folder: Path) -> float:
    """Seconds of a stage's whole run: data, noise, log, checkpoint at the end."""
    domain = get_domain(config.domain)(config)
    stage = build_stage("denoiser", domain, {})
    world = World(0, 1, torch.device("cpu"))
    job = TrainingJob(stage, domain.dataset("train"), config.stage("denoiser"), folder, 0, world, quiet=True)
    return seconds(Trainer(job).run)


def plain_training(config: RunConfig) -> float:
    """Seconds of the same number of steps in a plain loop."""
    stage, data = (
        config.stage("denoiser"),
        get_domain(config.domain)(config).dataset("train").load(range(1600), range(1600)),
    )
    model = PlainModel(config).train()
    parameters: list[Tensor] = [p for part in (model.network, model.encoder) for p in part.parameters()]
    average = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=stage.lr, betas=stage.betas, weight_decay=0.0, foreach=True)
    images, labels = data.clean["x"], data.label
    assert labels is not None

    def run() -> None:
        for _ in range(stage.steps):
            index = torch.randint(len(images), (stage.batch,))
            optimizer.zero_grad(set_to_none=True)
            model.loss(images[index], labels[index]).backward()
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(average, parameters, 0.001)

    return seconds(run)


def sampling(config: RunConfig) -> tuple[float, float]:
    """Seconds of one batch of samples: framework, plain."""
    domain = get_domain(config.domain)(config)
    model = PlainModel(config).eval()
    denoiser = domain.denoiser()
    denoiser.load_state_dict({f"network.{k}": v for k, v in model.network.state_dict().items()})
    parts = {"denoiser": denoiser, "encoder": copy.deepcopy(model.encoder), "prior": copy.deepcopy(model.prior)}
    pipeline = Pipeline(domain, parts)
    label = torch.arange(IMAGES) % 10
    ours = seconds(lambda: pipeline.generate(Request(count=IMAGES, steps=SAMPLING_STEPS)))
    return ours, seconds(lambda: model.sample(label))


def report(name: str, rounds: list[tuple[float, float]], unit: float, what: str) -> None:
    ratios = [ours / plain for ours, plain in rounds]
    ours, plain = (1e3 * statistics.median(times) / unit for times in zip(*rounds, strict=True))
    print(
        f"{name}: framework {ours:.2f}, plain {plain:.2f} ms per {what}; "
        f"ratio {statistics.median(ratios):.3f} (rounds {min(ratios):.3f} to {max(ratios):.3f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=30, help="training steps per round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(CONFIG, [f"train.denoiser.steps={options.steps}", "train.denoiser.log_every=10"])
    training: list[tuple[float, float]] = []
    generation: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds + 1):  # the first round warms up
            training.append((framework_training(config, Path(folder) / str(number)), plain_training(config)))
            generation.append(sampling(config))
    report("training", training[1:], options.steps, "step")
    report("sampling", generation[1:], 2 * SAMPLING_STEPS - 1, "network call")


if __name__ == "__main__":
    main()
