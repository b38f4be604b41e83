"""What the image networks cost: beside a peer's code, and with latents."""
