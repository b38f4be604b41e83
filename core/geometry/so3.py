r"""The isotropic Gaussian on SO(3): the law of a rotation after Brownian motion of level sigma.

Its density with respect to the uniform distribution depends only on the angle w of the rotation:
f(w) = sum_l (2 l + 1) exp(-l (l + 1) T) sin((l + 1/2) w) / sin(w / 2), T = c sigma^2.
The factor c is a convention that weights are tied to: ``IGSO3.exponent``.

The series needs thousands of terms for a small sigma. Poisson summation over half-integers l + 1/2 turns it into a sum
over the images w + 2 pi k, of which a few are enough at any sigma:
f(w) = sqrt(pi / T) / (2 T) exp(T / 4) / sin(w / 2) sum_k (-1)^k (w - 2 pi k) exp(-(w - 2 pi k)^2 / (4 T)).
With a = pi k / T and E = exp(-pi k (pi k -+ w) / T) the images k and -k join into
f(w) = A exp(-w^2 / (4 T)) w / sin(w / 2) h(w),  h = 1 + sum_{k >= 1} (-1)^k (E- + E+ - 2 pi k (E- - E+) / w),
without overflow on [0, pi] and without cancellation at 0. All is float64 inside, and returned in the type of the input.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from core.errors import ConfigError
from core.geometry.tables import LogTable
from core.geometry.torus import wrap

# At T = 16 the density is 1 to 1e-13, and the images beyond the 8th hold less than that.
_UNIFORM = 16.0
_IMAGES = 8
_LOWEST = 1e-8  # below, score_norm is that of a flat space to 1e-8
_CLOSE = 1e-100  # stands for an angle of 0


@dataclass(frozen=True)
class IGSO3:
    """Isotropic Gaussian on SO(3) with T = exponent * sigma^2.

    exponent: 1/2 makes a small rotation vector normal with variance sigma^2 along each axis (heat equation; DiffDock);
    1 gives it variance 2 sigma^2 (the docking code of DisCo-Diff). Raises ConfigError if it is not positive.
    """

    exponent: float

    def __post_init__(self) -> None:
        if not 0 < self.exponent < math.inf:
            raise ConfigError(f"the exponent of IGSO(3) is {self.exponent}: give a positive number, 0.5 or 1")

    def time(self, sigma: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """T in float64, up to where the law is uniform."""
        return (self.exponent * sigma.double().square()).clamp(max=_UNIFORM)

    def density(self, angle: Float[Tensor, "..."], sigma: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """f: probability relative to uniform rotations. The shapes broadcast; it can underflow to 0."""
        return _density(wrap(angle.double()).abs(), self.time(sigma)).to(angle.dtype)

    def angle_density(self, angle: Float[Tensor, "..."], sigma: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """f(w) (1 - cos w) / pi: probability per radian of the angle on [0, pi]."""
        return self.density(angle, sigma) * (angle / 2).sin().square() * (2 / math.pi)

    def score(self, vector: Float[Tensor, "*b 3"], sigma: Float[Tensor, "*b"]) -> Float[Tensor, "*b 3"]:
        """d log f / d w along the axis of the rotation vector; 0 at the identity. Never overflows."""
        angle = vector.double().norm(dim=-1)
        turned = wrap(angle)
        # Past half a turn the way back to the identity is the other way round.
        sign = torch.where(turned == angle, 1, turned / angle)
        slope = _slope(turned.abs(), self.time(sigma)) * sign
        return (slope[..., None] * vector.double()).to(vector.dtype)

    def score_norm(self, sigma: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Root mean square of the score under the distribution, by quadrature (exact to 1e-7 up to sigma 2)."""
        time = self.time(sigma)
        return (_log_norms(sigma.device)(time).exp() * (1.5 / time).sqrt()).to(sigma.dtype)

    def sample(
        self, uniform: Float[Tensor, " b"], normal: Float[Tensor, "b 3"], sigma: Float[Tensor, " b"]
    ) -> Float[Tensor, "b 3"]:
        """Rotation vectors: the angle by its inverse distribution function, the axis in the direction of ``normal``."""
        angle = _quantile(uniform.double(), self.time(sigma))
        axis = torch.nn.functional.normalize(normal.double(), dim=-1)
        return (angle[:, None] * axis).to(normal.dtype)


@dataclass(frozen=True)
class AuthorsIGSO3(IGSO3):
    """IGSO(3) as the published docking weights know it: exact, but at the levels of a table of theirs.

    Their table has 1000 levels, geometric from 0.01 to 2. The row is round(1000 p), p being the place of sigma between
    the ends in log scale, cut to 0 .. 999: the level of a row is off by up to 0.8 percent. Their norm of the score is
    sqrt(sum score^2 p / (pi sum p)) over 2000 angles, 0 left out, p being the density of the angle.
    """

    exponent: float = 1.0

    def time(self, sigma: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """T at the level of the row."""
        span, rows = math.log(2 / 0.01), 1000
        row = ((sigma.double() / 0.01).log() * (rows / span)).round().clamp(0, rows - 1)
        return super().time(0.01 * (row * (span / (rows - 1))).exp())

    def score_norm(self, sigma: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        # Their sums are integrals to the last digit, but for the whole weight of the end point pi in that of p.
        level = sigma.double()
        excess = self.angle_density(torch.full_like(level, math.pi), level) * (math.pi / 4000)
        return (super().score_norm(level) / (math.pi * (1 + excess)).sqrt()).to(sigma.dtype)


def _images(w: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(-1)^k, 2 pi k, E- + E+ and E- - E+, with a last dimension for k = 1 .. K."""
    k = torch.arange(1, _IMAGES + 1, dtype=torch.float64, device=w.device)
    rate = math.pi * k / time[..., None]
    near = (rate * (w[..., None] - math.pi * k)).exp()
    drop = (-2 * rate * w[..., None]).expm1()  # E+ / E- - 1
    return 1 - 2 * (k % 2), 2 * math.pi * k, near * (2 + drop), -near * drop


def _density(w: Tensor, time: Tensor) -> Tensor:
    """f at angles in [0, pi]."""
    w = w.clamp(min=_CLOSE)
    sign, turn, total, gap = _images(w, time)
    h = 1 + (sign * (total - turn * gap / w[..., None])).sum(-1)
    gauss = (time / 4 - w.square() / (4 * time)).exp() * (math.pi / time).sqrt() / (2 * time)
    return gauss * w / (w / 2).sin() * h


def _slope(w: Tensor, time: Tensor) -> Tensor:
    """(d log f / d w) / w at angles in [0, pi]."""
    w = w.clamp(min=_CLOSE)
    sign, turn, total, gap = _images(w, time)
    wide, rate = w[..., None], turn / (2 * time[..., None])
    h = 1 + (sign * (total - turn * gap / wide)).sum(-1)
    # h' = sum (-1)^k (a (E- - E+) - 2 pi k d / w) with d = a (E- + E+) - (E- - E+) / w, which cancels for a small a w.
    x = (rate * wide).square()
    series = rate * total * x / 3 * (1 - x * (2 / 5) * (1 - x * (17 / 42)))  # d / (E- + E+) = a (1 - tanh(a w) / (a w))
    d = torch.where(x < 1e-3, series, rate * total - gap / wide)
    change = (sign * (rate * gap - turn * d / wide)).sum(-1)
    square = w.square()
    # (1 / w - cot(w / 2) / 2) / w: the logarithmic derivative of w / sin(w / 2), over w.
    near = 1 / 12 + square / 720 * (1 + square / 42 * (1 + square / 40))
    curvature = torch.where(w < 0.1, near, (1 - w / 2 / (w / 2).tan()) / square)
    return curvature - 0.5 / time + change / (w * h)


def _nodes(time: Tensor, count: int) -> Tensor:
    """[B, count] angles from 0 to min(pi, 9 sqrt(2 T)), beyond which lies less than 1e-16 of the probability."""
    steps = torch.linspace(0, 1, count, dtype=torch.float64, device=time.device)
    return (9 * (2 * time).sqrt()).clamp(max=math.pi)[:, None] * steps


@lru_cache(maxsize=8)
def _log_norms(device: torch.device) -> LogTable:
    """log of the norm over that of flat space, sqrt(3 / (2 T)), as a function of T."""
    times = LogTable.points(_LOWEST, _UNIFORM, 1024)
    w, wide = _nodes(times, 128), times[:, None]
    square = (_slope(w, wide) * w).square() * _density(w, wide) * (w / 2).sin().square() * (2 / math.pi)
    # The trapezium rule converges exponentially: the integrand is even and analytic, and vanishes at both ends.
    mean = square.sum(1) * w[:, 1]
    return LogTable(_LOWEST, _UNIFORM, 0.5 * (mean * times / 1.5).log()).to(device)


def _quantile(probability: Tensor, time: Tensor) -> Tensor:
    """[B] angles below which lies the given probability (to about 1e-8 of the latter)."""
    nodes, cells = 48, 256
    w = _nodes(time, nodes + 1)
    top = w[:, -1:]
    pdf = _density(w, time[:, None]) * (w / 2).sin().square() * (2 / math.pi)
    # The density of the angle is even at both ends: its cosine series converges exponentially and integrates to sines.
    j = torch.arange(nodes + 1, dtype=torch.float64, device=w.device)[:, None]
    half = torch.ones_like(j[:, 0])
    half[[0, -1]] = 0.5
    waves = (math.pi / nodes * j * j.T).cos()
    series = ((pdf * half) @ waves) * half * (2 / nodes)
    x = torch.linspace(0, 1, cells + 1, dtype=torch.float64, device=w.device)
    sines = torch.where(j == 0, x, (math.pi * j * x).sin() / (math.pi * j.clamp(min=1)))
    below, slopes = top * (series @ sines), top / cells * (series @ (math.pi * j * x).cos())
    target = probability[:, None] * below[:, -1:]
    cell = ((below <= target).sum(1, keepdim=True) - 1).clamp(0, cells - 1)
    start, left, right = below.gather(1, cell), slopes.gather(1, cell), slopes.gather(1, cell + 1)
    rise = below.gather(1, cell + 1) - start
    # Within the cell: the cubic with these values and slopes at its ends, searched four times to 1/64.
    place, grid = torch.zeros_like(start), torch.arange(65, dtype=torch.float64, device=w.device)
    for level in (1, 2, 3, 4):
        u = place + grid * 64.0**-level
        value = start + u * (left + u * (3 * rise - 2 * left - right + u * (left + right - 2 * rise)))
        place = u.gather(1, ((value <= target).sum(1, keepdim=True) - 1).clamp(0, 63))
    return ((cell + place) * (top / cells))[:, 0]
