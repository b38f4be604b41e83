"""The latent space that a configuration asks for."""

from core.config import LatentConfig
from core.continuous import GaussianSpace
from core.latents import CategoricalSpace, LatentSpace, PointerSpace


def latent_space(config: LatentConfig) -> LatentSpace:
    """Discrete or Gaussian space. Raises ValueError for a model without latents."""
    if config.kind == "discrete":
        return CategoricalSpace(config.count, config.codes, config.temperature, config.extraction_temperature)
    if config.kind == "pointer":
        return PointerSpace(config.count, 0, config.temperature, config.extraction_temperature)
    if config.kind == "gaussian":
        return GaussianSpace(config.count, config.codes, config.kl_weight)
    raise ValueError("a model with latents.kind = none has no latent space")
