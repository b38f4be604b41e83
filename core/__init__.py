"""DisCo: discrete latents for any diffusion model. The domain-agnostic part."""

__version__ = "0.1.0"
