"""Networks of the 2-D toy (DisCo-Diff appendix F.2)."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.config import LatentConfig
from core.heads import LatentHead
from core.interfaces import Denoiser, DiscreteEncoder, expand
from core.types import Batch, FlatState, LatentLogits, Latents, Tangent

POINT_SCALE = 5.0  # Adam moves all parameters at one rate, and the points have units to travel, not hundredths
FREQUENCIES = 4  # of the sines and cosines of the log noise level


def mlp(sizes: list[int]) -> nn.Sequential:
    """Linear layers of the given sizes with SiLU between them."""
    layers: list[nn.Module] = []
    for into, out in pairwise(sizes):
        layers += [nn.Linear(into, out), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


class ToyEncoder(DiscreteEncoder):
    """Three-layer MLP from the clean point to the logits of one latent; ``scale``: the points' size."""

    def __init__(self, latents: LatentConfig, width: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.net = nn.Sequential(mlp([2, width, width]), nn.SiLU())
        self.head = LatentHead(latents, width)

    def forward(self, batch: Batch) -> LatentLogits:
        logits: LatentLogits = self.head(self.net(batch.clean["x"] / self.scale)[:, None])
        return logits


class ToyDenoiser(Denoiser):
    """G(x, t, z) = (F(z) - x) / (t^2 + S^2) + c(t) H(x, t), the paper's score form.

    F: a learned point per code; H: a four-layer MLP without z. With a latent S = s, the spread of one component;
    without one F = 0 and S is the standard deviation of all data: EDM's preconditioned network.
    c(t) = S / sqrt((t^2 + s^2) (t^2 + S^2)) lets H be of unit size: S / t^2 at large noise as in EDM, 1 / s at small
    noise, where EDM's c would grow without bound. The paper gives neither a scale nor widths.
    """

    def __init__(self, width: int, spread: float, data_std: float, codes: int = 0) -> None:
        super().__init__()
        self.spread, self.data_std = spread, data_std
        self.points = nn.Parameter(torch.randn(codes, 2) * 0.02) if codes else None
        self.body = nn.Sequential(mlp([3 + 2 * FREQUENCIES, width, width, width]), nn.SiLU())
        self.last = nn.Linear(width, 2)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, state: FlatState, level: Float[Tensor, " b"], latents: Latents | None, batch: Batch) -> Tangent:
        x = state["x"]
        t = expand(level.to(x.dtype), x)
        centre, spread = torch.zeros_like(x), torch.full_like(t, self.data_std)
        if self.points is not None and latents is not None:
            keep = expand(latents.keep, x)
            centre = torch.where(keep, (latents.values[:, 0] @ self.points * POINT_SCALE).to(x.dtype), centre)
            spread = torch.where(keep, self.spread, spread)
        total = t**2 + spread**2
        scale = spread / ((t**2 + self.spread**2) * total).sqrt()
        return {"x": (centre - x) / total + scale * self._correction(x, t)}

    def _correction(self, x: Float[Tensor, "b 2"], t: Float[Tensor, "b 1"]) -> Float[Tensor, "b 2"]:
        """H(x, t); its noise input saturates below the spread, where the score no longer depends on t."""
        scaled = x * (t**2 + self.data_std**2).rsqrt()
        level = 0.5 * (t**2 + self.spread**2).log()
        angles = 0.7 * level * torch.arange(1, FREQUENCIES + 1, dtype=x.dtype, device=x.device)
        inputs = torch.cat([scaled, level / 2, angles.sin(), angles.cos()], dim=1)
        out: Tensor = self.last(self.body(inputs.to(self.last.weight.dtype)))
        return out.to(x.dtype)
