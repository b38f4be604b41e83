"""What discrete latents do in docking: for the denoising loss, for the prior, in meaning, for the poses."""
