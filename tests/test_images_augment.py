"""Augmentation that does not leak: closed forms, and values of EDM's own code."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from core.rng import SampleStreams
from domains.images.data.augment import _SYM6, LABELS, Transformation, margins, resample

GOLDEN = [
    [-0.53912, 0.62975, -0.11644],
    [-0.16327, -0.10292, -0.04699],
    [0.63270, 0.42544, 0.37637],
    [-0.95230, 0.13096, -0.99120],
]


def transformation(count: int = 1, **changes: Any) -> Transformation:
    """The same for ``count`` images; what is not named is zero."""
    names = ("flip_x", "flip_y", "scale", "angle", "stretch", "axis")
    zero = torch.zeros(count, dtype=torch.float64)
    still = Transformation(**dict.fromkeys(names, zero), shift=torch.zeros(count, 2, dtype=torch.float64))
    values = {k: torch.tensor([v] * count, dtype=torch.float64) for k, v in changes.items()}
    return replace(still, **values)


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def drawn(count: int, probability: float, seed: int = 0) -> Transformation:
    return Transformation.draw(SampleStreams(seed, range(count), "augment"), probability)


def test_the_filter_is_an_orthogonal_wavelet_with_six_vanishing_moments() -> None:
    h = np.array(_SYM6) * math.sqrt(2)
    for shift in range(6):
        assert np.dot(h[2 * shift :], h[: len(h) - 2 * shift]) == pytest.approx(float(shift == 0), abs=1e-9)
    k = np.arange(len(h))
    for power in range(6):
        assert np.dot((-1.0) ** k * (k - 5.5) ** power, h) == pytest.approx(0, abs=1e-6), power


def test_nothing_happens_at_probability_zero() -> None:
    images, still = noise(20, 3, 8, 8), drawn(20, 0.0)
    assert torch.equal(still.apply(images), images)
    assert not still.labels().any()


def test_the_identity_comes_back_through_the_filters() -> None:
    image = noise(3, 9, 14)
    torch.testing.assert_close(resample(image, torch.eye(3, dtype=torch.float64)), image, atol=1e-5, rtol=0)


def test_flips_are_exact() -> None:
    images = noise(2, 3, 7, 8)
    assert torch.equal(transformation(2, flip_x=1.0).apply(images), images.flip(3))
    assert torch.equal(transformation(2, flip_y=1.0).apply(images), images.flip(2))
    assert torch.equal(transformation(2, flip_x=1.0, flip_y=1.0).apply(images), images.flip(2, 3))


@pytest.mark.parametrize(("x", "y"), [(3, 0), (0, -2), (-1, 4)])
def test_translations_by_whole_pixels_move_pixels_and_mirror_the_border(x: int, y: int) -> None:
    image = noise(1, 1, 16, 16)
    moved = transformation(shift=[x / 2, y / 2]).apply(image)  # 0.125 * 16 = 2 pixels
    wide = torch.nn.functional.pad(image, [8, 8, 8, 8], mode="reflect")
    torch.testing.assert_close(moved, wide[:, :, 8 - y : 24 - y, 8 - x : 24 - x], atol=2e-5, rtol=0)


def smooth(height: int, width: int, phase: float = 0.0) -> Tensor:
    """A wave that the filters keep, about the image's centre."""
    y = torch.arange(height, dtype=torch.float32) - (height - 1) / 2
    x = torch.arange(width, dtype=torch.float32) - (width - 1) / 2
    return torch.sin(0.3 * x[None] + 0.2 * y[:, None] + phase)[None, None]


def inner(images: Tensor) -> Tensor:
    """Without the border, where mirrored content comes in."""
    return images[..., 8:-8, 8:-8]


@pytest.mark.parametrize(("turns", "angle"), [(1, math.pi / 2), (2, math.pi), (3, -math.pi / 2)])
def test_quarter_turns_turn_the_picture_anticlockwise(turns: int, angle: float) -> None:
    image = smooth(32, 32, 0.4)
    turned = transformation(angle=angle).apply(image)
    difference = (inner(turned) - inner(image.rot90(turns, (2, 3)))).abs().max()
    assert float(difference) < 0.06  # 0.36 per pixel at the steepest, and about a tenth of a pixel between the filters


def test_scaling_enlarges_about_the_centre() -> None:
    y = torch.arange(32, dtype=torch.float32) - 15.5
    image = (torch.cos(0.4 * y)[:, None] * torch.ones(32))[None, None]
    larger = transformation(scale=5.0).apply(image)  # 2^(0.2 * 5) = 2
    expected = (torch.cos(0.2 * y)[:, None] * torch.ones(32))[None, None]
    torch.testing.assert_close(inner(larger), inner(expected), atol=1e-2, rtol=0)


def test_stretching_keeps_the_area_and_acts_along_its_axis() -> None:
    many = drawn(50, 1.0)
    torch.testing.assert_close(torch.linalg.det(many.matrices(8, 8)), torch.exp2(0.4 * many.scale))
    along_x = transformation(stretch=5.0).matrices(8, 8)[0]
    torch.testing.assert_close(along_x, torch.diag(torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64)))
    along_y = transformation(stretch=5.0, axis=math.pi / 2).matrices(8, 8)[0]
    torch.testing.assert_close(along_y, torch.diag(torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)))


def test_labels_are_the_parameters_in_edms_order() -> None:
    given: dict[str, Any] = {"flip_x": 1.0, "flip_y": 0.0, "scale": -0.5, "angle": 0.3, "stretch": 2.0, "axis": 0.4}
    row = transformation(shift=[0.6, -0.7], **given).labels()[0].tolist()
    expected = [1, 0, -0.5, math.cos(0.3) - 1, math.sin(0.3), 2 * math.cos(0.4), 2 * math.sin(0.4), 0.6, -0.7]
    assert row == pytest.approx(expected)
    assert len(row) == LABELS


def test_values_are_those_of_edms_own_code() -> None:
    """Made by running NVlabs/edm's AugmentPipe with these parameters in place of random numbers."""
    steps = torch.arange(12.0)
    image = torch.sin(0.9 * steps[:, None] + 0.4 * steps[None])[None, None]
    done = transformation(flip_x=1.0, scale=0.7, angle=0.5, stretch=-0.6, axis=1.1, shift=[0.4, -0.3])
    values = done.apply(image)[0, 0][[0, 4, 7, 11]][:, [0, 5, 11]]
    expected = torch.tensor(GOLDEN)
    torch.testing.assert_close(values, expected, atol=1e-4, rtol=0)


def test_each_transformation_has_the_asked_for_frequency_and_spread() -> None:
    many, p = drawn(20_000, 0.3), 0.3
    assert float(many.flip_x.mean()) == pytest.approx(0.5, abs=0.015)
    assert float(many.flip_y.mean()) == pytest.approx(p / 2, abs=0.015)
    for value in (many.scale, many.angle, many.stretch, many.shift[:, 0], many.shift[:, 1]):
        assert float((value != 0).double().mean()) == pytest.approx(p, abs=0.015)
    for value in (many.scale, many.stretch, many.shift[:, 1]):
        assert float(value[value != 0].std()) == pytest.approx(1, abs=0.04)
    assert float(many.angle[many.angle != 0].std()) == pytest.approx(2 * math.pi / math.sqrt(12), abs=0.04)
    assert float((many.axis != 0).double().mean()) == pytest.approx(0.5, abs=0.015)
    both = ((many.scale != 0) & (many.angle != 0)).double().mean()
    assert float(both) == pytest.approx(p * p, abs=0.01)


def test_a_sample_is_transformed_the_same_in_any_batch() -> None:
    images = noise(12, 2, 10, 10)
    whole = drawn(12, 0.8).apply(images)
    for chosen in ([5], [11, 0, 3]):
        part = Transformation.draw(SampleStreams(0, chosen, "augment"), 0.8)
        assert torch.equal(part.apply(images[chosen]), whole[chosen])
    assert not torch.equal(drawn(12, 0.8, seed=1).apply(images), whole)


def test_margins_reach_what_is_looked_at_and_never_pass_the_image() -> None:
    shifted = torch.linalg.inv(transformation(shift=[4.0, 0.0]).matrices(16, 16)[0])  # 8 pixels to the right
    left, right, top, bottom = margins(shifted, 16, 16)
    assert (left, right) == (14, 0)
    assert top == bottom == 6
    far = torch.linalg.inv(transformation(scale=-15.0).matrices(6, 9)[0])
    assert list(margins(far, 6, 9)) == [8, 8, 5, 5]


def test_large_transformations_of_small_images_are_finite() -> None:
    images = noise(30, 1, 4, 5)
    assert drawn(30, 1.0).apply(images).isfinite().all()
    assert transformation(30, scale=-20.0, shift=[9.0, 9.0]).apply(images).isfinite().all()
