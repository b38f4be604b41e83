"""Samples of a toy model with the luck of the draw taken out."""

import torch
from jaxtyping import Float
from torch import Tensor

from core.errors import RequestError
from core.guidance import ScoreField
from core.latents import from_codes
from core.pipeline import Pipeline
from core.prior import log_probabilities
from core.rng import SampleStreams, inverse_cdf
from core.samplers import Heun

TAIL = 1e-6  # quasi-random numbers are kept away from 0 and 1 by this much


@torch.no_grad()
def low_variance_samples(pipeline: Pipeline, count: int, seed: int = 0) -> Float[Tensor, "n 2"]:
    """Samples whose initial noise and code come from one scrambled Sobol sequence.

    Independent samples miss the weights of the eight modes by chance, and that chance dominates Wasserstein-2: two
    independent samples of the true density are far apart. Quasi-random numbers leave the model's own error. The
    noise goes through the inverse normal distribution function, the code through the inverse distribution function
    of the prior.
    """
    uniform = torch.quasirandom.SobolEngine(3, scramble=True, seed=seed).draw(count, dtype=torch.float64)
    uniform = uniform.clamp(TAIL, 1 - TAIL)
    batch = pipeline.domain.request(range(count)).to(pipeline.device)
    latents = None
    if not pipeline.geometry.gaussian or (pipeline.space is not None and not pipeline.space.discrete):
        raise RequestError("low-variance samples need Gaussian noise, and discrete latents or none")
    if pipeline.space is not None:
        width = pipeline.space.width
        every = torch.arange(width, device=pipeline.device)[:, None]
        log_p = log_probabilities(
            pipeline.networks["prior"], pipeline.domain.request(range(width)).to(pipeline.device), every
        )[:, 0]
        codes = inverse_cdf(log_p.exp().expand(count, -1), uniform[:, 2].to(pipeline.device))
        latents = from_codes(codes[:, None], width)
    times = pipeline.domain.sampling_times(pipeline.config.sampling.steps).to(pipeline.device)
    start = {"x": times[0] * torch.special.ndtri(uniform[:, :2]).to(pipeline.device)}
    field: ScoreField = pipeline.field(batch, latents)
    end: Tensor = Heun().run(field, start, times, SampleStreams(seed, batch.ids, "unused"))["x"]
    return end
