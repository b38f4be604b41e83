"""Training of the confidence model on poses that the trained denoiser makes, and how well it ranks."""
