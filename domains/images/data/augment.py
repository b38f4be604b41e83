"""Augmentation that does not leak: random transformations whose parameters the network is told.

Karras et al. 2022, appendix F.2 and Table 6, the set that EDM trains CIFAR-10 with: x-flip (half of all images),
y-flip, scaling, rotation, anisotropic stretch and translation (each with probability p). The nine numbers that describe
what was done are a condition of the denoiser; at sampling they are zero, so nothing generated looks transformed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from core.rng import SampleStreams

# Columns: x-flip, y-flip, scale, cos - 1 and sin of the rotation, stretch along x and y, shift along x and y.
LABELS = 9
SCALE_STD = 0.2  # of log2 of the scale, and of log2 of the stretch
SHIFT_STD = 0.125  # of the translation, as a share of the image
AXIS_PROBABILITY = 0.5  # that a stretch has a random axis; else it is along x

# Scaling filter of the symlet with six vanishing moments (Daubechies, "Ten lectures on wavelets", 1992, table 8.3),
# normalised to sum 1.
_SYM6 = tuple(
    value / math.sqrt(2)
    for value in (
        0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
        0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
        -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
    )
)  # fmt: skip
_MIDDLE = 5  # coefficient about which the filter is nearly symmetric (its centre of mass is at 5.1)
_REACH = len(_SYM6) // 4  # pixels that a filter at twice the resolution sees beyond a point


@dataclass(frozen=True)
class Transformation:
    """What is done to B images, in this order: flips, scaling, stretch and rotation about the centre, translation.

    flip_x, flip_y: [B] 0 or 1; scale: [B] in units of ``SCALE_STD`` octaves; angle: [B] radians, from the y axis (which
    points down) to the x axis; stretch: [B] in units of ``SCALE_STD`` octaves, along the axis at angle axis: [B]
    radians; shift: [B, 2] (x, y) in units of ``SHIFT_STD`` image sizes. All float64; zeros leave an image as it is.
    """

    flip_x: Float[Tensor, " b"]
    flip_y: Float[Tensor, " b"]
    scale: Float[Tensor, " b"]
    angle: Float[Tensor, " b"]
    stretch: Float[Tensor, " b"]
    axis: Float[Tensor, " b"]
    shift: Float[Tensor, "b 2"]

    @classmethod
    def draw(cls, streams: SampleStreams, probability: float) -> "Transformation":
        """Random ones of the given probability; every sample's come from its own stream."""
        uniform = streams.uniform(10, dtype=torch.float64).unbind(1)
        normal = streams.normal(4, dtype=torch.float64)
        on = [(value < probability).double() for value in uniform[:5]]  # of y-flip, scale, rotation, stretch, shift
        free_axis = (uniform[9] < AXIS_PROBABILITY).double()
        return cls(
            flip_x=(uniform[5] < 0.5).double() * (probability > 0),
            flip_y=(uniform[6] < 0.5).double() * on[0],
            scale=normal[:, 0] * on[1],
            angle=(2 * uniform[7] - 1) * math.pi * on[2],
            stretch=normal[:, 1] * on[3],
            axis=(2 * uniform[8] - 1) * math.pi * free_axis,
            shift=normal[:, 2:] * on[4][:, None],
        )

    def labels(self) -> Float[Tensor, "b 9"]:
        """The condition of the denoiser, float32; all zero for an untouched image."""
        columns = (
            self.flip_x, self.flip_y, self.scale, self.angle.cos() - 1, self.angle.sin(),
            self.stretch * self.axis.cos(), self.stretch * self.axis.sin(), self.shift[:, 0], self.shift[:, 1],
        )  # fmt: skip
        return torch.stack(columns, dim=1).float()

    def matrices(self, height: int, width: int) -> Float[Tensor, "b 3 3"]:
        """Where pixels go, in float64: homogeneous (x, y, 1) in pixels from the centre, x right, y down; flips are not
        in it."""
        factor, stretch = torch.exp2(SCALE_STD * self.scale), torch.exp2(SCALE_STD * self.stretch)
        moved = SHIFT_STD * self.shift * self.shift.new_tensor([width, height])
        turned = _rotation(-self.axis) @ _diagonal(stretch, 1 / stretch) @ _rotation(self.axis)
        translation = _diagonal(torch.ones_like(factor), torch.ones_like(factor))
        translation[:, :2, 2] = moved
        return translation @ turned @ _rotation(-self.angle) @ _diagonal(factor, factor)

    def apply(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Transformed images. Those with flips only are moved pixel by pixel, without any filtering."""
        images = torch.where(_column(self.flip_x) == 1, images.flip(3), images)
        images = torch.where(_column(self.flip_y) == 1, images.flip(2), images)
        inverse = torch.linalg.inv(self.matrices(*images.shape[2:]))
        moved = (self.scale != 0) | (self.angle != 0) | (self.stretch != 0) | (self.shift != 0).any(1)
        # One by one: how much margin an image needs, and with it rounding, must not depend on the rest of the batch.
        triples = zip(images, inverse, moved.tolist(), strict=True)
        return torch.stack([resample(image, matrix) if move else image for image, matrix, move in triples])


def _column(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _diagonal(x: Tensor, y: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], dim=1))


def _rotation(angle: Tensor) -> Tensor:
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=1).reshape(-1, 3, 3)


def resample(image: Float[Tensor, "c h w"], inverse: Float[Tensor, "3 3"]) -> Float[Tensor, "c h w"]:
    """The image under an affine map, nearly free of aliasing.

    inverse: from places in the result to places in the image, pixels from the centre. The image is mirrored beyond its
    border (by at most its size less one pixel, zero from there), brought to twice its resolution with an orthogonal
    wavelet's low-pass filter, sampled bilinearly, and brought back with the same filter. As the filter is orthogonal,
    translations by whole pixels come out exactly; as it is only nearly symmetric, quarter turns are a twentieth of a
    pixel off.
    """
    height, width = image.shape[1:]
    left, right, top, bottom = margins(inverse, height, width)
    fine = _double(functional.pad(image[None], [left, right, top, bottom], mode="reflect")[0])
    inverse = inverse.double()
    x = (torch.arange(2 * width + len(_SYM6) - 2).double() - _MIDDLE) / 2 - (width - 1) / 2
    y = (torch.arange(2 * height + len(_SYM6) - 2).double() - _MIDDLE) / 2 - (height - 1) / 2
    rows = inverse[:2, 0] * x[None, :, None] + inverse[:2, 1] * y[:, None, None] + inverse[:2, 2]
    corner = rows.new_tensor([(width - 1) / 2 + left, (height - 1) / 2 + top])
    index = 2 * (rows + corner) + _MIDDLE  # in pixels of the doubled image
    size = rows.new_tensor([fine.shape[2] - 1, fine.shape[1] - 1])
    where = (2 * index / size - 1).to(image.dtype)[None]
    return _halve(functional.grid_sample(fine[None], where, mode="bilinear", align_corners=True)[0])


def margins(inverse: Float[Tensor, "3 3"], height: int, width: int) -> Sequence[int]:
    """Pixels (left, right, top, bottom) beyond the border that the result looks at, filters included."""
    half = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=torch.float64)
    reach = inverse[:2, :2].double().abs() @ (half + _REACH)  # of the result's corners, from the image's centre
    centre = inverse[:2, 2].double()
    low, high = reach - centre - half + _REACH, reach + centre - half + _REACH
    need = torch.stack([low[0], high[0], low[1], high[1]]).ceil().clamp(min=0)
    limit = need.new_tensor([width - 1, width - 1, height - 1, height - 1])
    return [int(value) for value in torch.minimum(need, limit)]


@lru_cache(maxsize=512)
def _filter(size: int) -> Tensor:
    """[2 size + 10, size] coefficient that pixel n gives to pixel k of the doubled row, h[k - 2n], in float32."""
    tap = torch.arange(2 * size + len(_SYM6) - 2)[:, None] - 2 * torch.arange(size)[None]
    inside = (tap >= 0) & (tap < len(_SYM6))
    return torch.tensor(_SYM6)[tap.clamp(0, len(_SYM6) - 1)] * inside


def _double(image: Tensor) -> Tensor:
    """[C, H, W] to [C, 2 H + 10, 2 W + 10]: zeros between pixels, then the filter (brightness is kept)."""
    # As products with small matrices: several times faster than transposed convolutions of single images.
    return 4 * (_filter(image.shape[1]) @ image @ _filter(image.shape[2]).T)


def _halve(image: Tensor) -> Tensor:
    """[C, 2 H + 10, 2 W + 10] to [C, H, W]: the filter, then every other pixel."""
    height, width = ((size - len(_SYM6) + 2) // 2 for size in image.shape[1:])
    return _filter(height).T @ image @ _filter(width)
