"""EDM's denoiser networks for images, with cross-attention to discrete latents."""
