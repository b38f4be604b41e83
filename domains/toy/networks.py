"""Networks of the 2-D toy (DisCo-Diff appendix F.2)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.interfaces import Denoiser, DiscreteEncoder, expand
from core.types import Batch, FlatState, LatentLogits, Latents, Tangent


def mlp(sizes: list[int]) -> nn.Sequential:
    """Linear layers of the given sizes with SiLU between them."""
    layers: list[nn.Module] = []
    for into, out in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(into, out), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


class ToyEncoder(DiscreteEncoder):
    """Three-layer MLP from the clean point to the logits of one latent."""

    def __init__(self, out: int, width: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.net = mlp([2, width, width, out])

    def forward(self, batch: Batch) -> LatentLogits:
        return LatentLogits(self.net(batch.clean["x"] / self.scale)[:, None])


class ToyDenoiser(Denoiser):
    """G(x, t, z) = (F(z) - x) / (t^2 + s^2) + c(t) H(x, t), the paper's score form.

    F: a learned point per code; H: a four-layer MLP without z; s: the spread of one component with latents, that of
    all data without (F = 0 then: this is EDM's preconditioned network). c(t) = s / (t sqrt(t^2 + s^2)) is EDM's output
    scale, so that H has unit size at every t; the paper gives no scale for H.
    """

    def __init__(self, width: int, spread: float, data_std: float, codes: int = 0) -> None:
        super().__init__()
        self.spread, self.data_std = spread, data_std
        self.points = nn.Parameter(torch.randn(codes, 2) * data_std) if codes else None
        self.net = mlp([3, width, width, width, 2])
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(
        self, state: FlatState, level: Float[Tensor, " b"], latents: Latents | None, batch: Batch
    ) -> Tangent:
        x = state["x"]
        t = expand(level.to(x.dtype), x)
        centre, spread = torch.zeros_like(x), torch.full_like(t, self.data_std)
        if self.points is not None and latents is not None:
            keep = expand(latents.keep, x)
            named = (latents.values[:, 0] @ self.points).to(x.dtype)
            centre = torch.where(keep, named, centre)
            spread = torch.where(keep, torch.full_like(t, self.spread), spread)
        dtype = self.net[0].weight.dtype
        scaled = torch.cat([x * (t**2 + self.data_std**2).rsqrt(), t.log() / 4], dim=1)
        change = self.net(scaled.to(dtype)).to(x.dtype)
        total = t**2 + spread**2
        return {"x": (centre - x) / total + spread / (t * total.sqrt()) * change}
