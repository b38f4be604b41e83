"""How likely a ligand touches each probe point of a protein."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from domains.docking.sites.config import SitesConfig
from domains.docking.sites.features import N_FEATURES


class RunningScale(nn.Module):
    """Features with mean 0 and variance 1 over all points seen in training so far; the moments are buffers."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.seen: Tensor
        self.mean: Tensor
        self.square: Tensor
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("square", torch.ones(size))

    def forward(self, x: Float[Tensor, "p f"]) -> Float[Tensor, "p f"]:
        if self.training:
            self.seen += len(x)
            share = len(x) / float(self.seen)
            self.mean.lerp_(x.mean(0), share)
            self.square.lerp_(x.square().mean(0), share)
        spread = (self.square - self.mean.square()).clamp(min=1e-4).sqrt()
        return ((x - self.mean) / spread).clamp(-5, 5)


class Round(nn.Module):
    """Every point hears from its neighbours (mean and maximum of half its numbers) and from the whole protein."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        half = max(1, width // 2)
        self.norm = nn.LayerNorm(width)
        self.said = nn.Linear(width, half)
        self.first = nn.Linear(width + 3 * half, width)
        self.out = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, width))

    def forward(self, x: Float[Tensor, "p w"], neighbours: Int[Tensor, "p k"]) -> Float[Tensor, "p w"]:
        y = self.norm(x)
        said = self.said(y)
        # A bag adds up rows without a copy of each, three times as fast as said[neighbours].
        around = [functional.embedding_bag(neighbours, said, mode=mode) for mode in ("mean", "max")]
        everywhere = said.mean(0, keepdim=True).expand_as(said)
        return x + self.out(self.first(torch.cat([y, *around, everywhere], dim=1)))


class SiteNet(nn.Module):
    """Two logits per probe point: ``touch``, whether any ligand would touch it, and ``choice``, whose softmax over the
    points of a protein is the chance of each to be where the ligand is.

    calibration: (a, b) of ``SitePrediction.probability`` = sigmoid(a logit(share) + b); ``calibrate`` sets it.
    """

    def __init__(self, config: SitesConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.calibration: Tensor
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))
        self.scale = RunningScale(N_FEATURES)
        self.embed = nn.Sequential(
            nn.Linear(N_FEATURES, width), nn.SiLU(), nn.Dropout(config.dropout), nn.Linear(width, width)
        )
        self.rounds = nn.ModuleList(Round(width, config.dropout) for _ in range(config.rounds))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2))

    def forward(self, features: Float[Tensor, "p f"], neighbours: Int[Tensor, "p k"]) -> Float[Tensor, "p 2"]:
        """Logits [P, 2] (touch, choice) of the points of one protein."""
        x = self.embed(self.scale(features))
        for each in self.rounds:
            x = each(x, neighbours)
        return self.head(x)
