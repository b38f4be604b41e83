"""Rotations and superposition against matrix exponentials, SciPy and the properties that define them."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.stats import kstest
from torch import Tensor

from core.geometry.rigid import random_rotation, rotation_matrix, rotation_vector, superpose
from tests.support import streams

AXES = torch.nn.functional.normalize(streams(40, purpose="axes").normal(3, dtype=torch.float64), dim=-1)
ANGLES = [0.0, 1e-300, 1e-12, 1e-6, 0.019, 0.0201, 0.5, 2.0, 3.0, math.pi - 1e-6, math.pi - 1e-12]
every_angle = pytest.mark.parametrize("angle", ANGLES)


def points(size: int, count: int, purpose: str = "points") -> Tensor:
    return streams(size, purpose=purpose).normal(count, 3, dtype=torch.float64)


def all_of(poses: Tensor) -> Tensor:
    return torch.ones(poses.shape[:2], dtype=torch.bool)


def rotations(size: int) -> Tensor:
    return random_rotation(streams(size, purpose="rotation").normal(4, dtype=torch.float64))


def moved(poses: Tensor, rotation: Tensor, translation: Tensor) -> Tensor:
    return poses @ rotation.mT + translation[:, None]


def assert_rotations(matrix: Tensor, tolerance: float = 1e-14) -> None:
    identity = torch.eye(3, dtype=matrix.dtype).expand_as(matrix)
    torch.testing.assert_close(matrix @ matrix.mT, identity, rtol=0, atol=tolerance)
    assert bool((matrix.det() > 0).all())


@every_angle
def test_the_matrix_is_the_exponential_of_the_cross_product(angle: float) -> None:
    x, y, z = (AXES * angle).unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).reshape(-1, 3, 3)
    torch.testing.assert_close(rotation_matrix(AXES * angle), torch.linalg.matrix_exp(cross), rtol=0, atol=2e-15)
    assert_rotations(rotation_matrix(AXES * angle))


def test_a_quarter_turn_is_right_handed() -> None:
    turn = rotation_matrix(torch.tensor([0.0, 0.0, math.pi / 2]))
    torch.testing.assert_close(turn @ torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]))


@every_angle
def test_the_vector_is_the_inverse_of_the_matrix(angle: float) -> None:
    vector = AXES * angle
    # Near half a turn the entries of the matrix know the axis, but hardly the angle's sign.
    torch.testing.assert_close(rotation_vector(rotation_matrix(vector)), vector, rtol=1e-14, atol=2e-15)


@pytest.mark.parametrize("axis", [*torch.eye(3).tolist(), [0.6, 0.0, 0.8], [-0.6, 0.64, 0.48]])
def test_exactly_half_a_turn_has_a_vector_of_length_pi(axis: list[float]) -> None:
    n = torch.tensor(axis, dtype=torch.float64)
    half = 2 * n[:, None] * n - torch.eye(3)
    vector = rotation_vector(half)
    assert float(vector.norm()) == pytest.approx(math.pi, abs=1e-12)
    torch.testing.assert_close(rotation_matrix(vector), half, rtol=0, atol=1e-12)


def test_the_vector_keeps_small_angles_in_single_precision() -> None:
    vector = (AXES * 1e-7).float()
    torch.testing.assert_close(rotation_vector(rotation_matrix(vector)), vector, rtol=1e-5, atol=0)


@pytest.mark.parametrize("angle", [0.0, 0.0199, 0.0201, 1.0, 3.0])
def test_rotations_are_differentiable(angle: float) -> None:
    vector = (AXES[:2] * angle).requires_grad_()
    assert torch.autograd.gradcheck(rotation_matrix, (vector,))
    assert torch.autograd.gradgradcheck(rotation_matrix, (vector,))
    assert torch.autograd.gradcheck(lambda v: rotation_vector(rotation_matrix(v)), (vector,))


def test_any_batch_shape_and_type() -> None:
    assert rotation_matrix(torch.zeros(3)).equal(torch.eye(3))
    assert rotation_matrix(torch.zeros(2, 0, 3)).shape == (2, 0, 3, 3)
    assert rotation_vector(torch.eye(3, dtype=torch.float64)).equal(torch.zeros(3, dtype=torch.float64))
    assert rotation_vector(torch.eye(3).expand(4, 2, 3, 3)).shape == (4, 2, 3)
    assert rotation_matrix(torch.zeros(3, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_random_rotations_are_uniform() -> None:
    n = 20_000
    drawn = rotations(n)
    assert_rotations(drawn[:100])
    # The mean of a uniform rotation is 0, and the variance of every entry 1/3.
    assert float(drawn.mean(0).abs().max()) < 4 / math.sqrt(3 * n)
    angles = rotation_vector(drawn).norm(dim=-1)
    assert kstest(angles.numpy(), lambda w: (w - np.sin(w)) / np.pi).pvalue > 1e-3
    # Uniformity is what no fixed rotation changes.
    again = rotation_vector(rotation_matrix(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)) @ drawn).norm(dim=-1)
    assert kstest(again.numpy(), lambda w: (w - np.sin(w)) / np.pi).pvalue > 1e-3


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 3e-6)])
def test_superposition_finds_a_rigid_motion(dtype: torch.dtype, tolerance: float) -> None:
    poses, rotation, translation = points(20, 9), rotations(20), 10 * points(20, 1)[:, 0]
    target = moved(poses, rotation, translation)
    found, shift = superpose(poses.to(dtype), target.to(dtype), all_of(poses))
    assert found.dtype == shift.dtype == dtype
    torch.testing.assert_close(found, rotation.to(dtype), rtol=0, atol=tolerance)
    torch.testing.assert_close(shift, translation.to(dtype), rtol=0, atol=20 * tolerance)


def test_superposition_is_that_of_scipy() -> None:
    poses, target = points(20, 6), points(20, 6, "other")
    found, shift = superpose(poses, target, all_of(poses))
    assert_rotations(found)
    for pose, goal, rotation, translation in zip(poses, target, found, shift, strict=True):
        best, _ = Rotation.align_vectors(goal - goal.mean(0), pose - pose.mean(0))
        np.testing.assert_allclose(rotation, best.as_matrix(), atol=1e-10)
        torch.testing.assert_close(translation, goal.mean(0) - rotation @ pose.mean(0))


def test_a_mirror_image_is_not_reflected() -> None:
    poses = points(20, 6)
    found, _ = superpose(poses, -poses, all_of(poses))
    assert_rotations(found)


def test_points_outside_the_mask_are_never_looked_at() -> None:
    poses, target = points(4, 8), points(4, 8, "other")
    mask = torch.arange(8) < torch.tensor([[3], [5], [7], [8]])
    found, shift = superpose(
        torch.where(mask[..., None], poses, math.nan), torch.where(mask[..., None], target, math.inf), mask
    )
    for i, count in enumerate((3, 5, 7, 8)):
        alone = superpose(poses[i : i + 1, :count], target[i : i + 1, :count], mask[i : i + 1, :count])
        torch.testing.assert_close((found[i : i + 1], shift[i : i + 1]), alone)


@pytest.mark.parametrize("count", [0, 1])
def test_without_two_points_nothing_is_rotated(count: int) -> None:
    poses, target = points(3, 4), points(3, 4, "other")
    found, shift = superpose(poses, target, (torch.arange(4) < count).expand(3, 4))
    assert found.equal(torch.eye(3, dtype=torch.float64).expand(3, 3, 3))
    torch.testing.assert_close(shift, (target - poses)[:, 0] if count else torch.zeros_like(shift))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("count", [2, 5])
def test_points_on_a_line_turn_by_the_angle_between_the_lines(count: int, dtype: torch.dtype) -> None:
    before, after = AXES[:20], AXES[20:]
    places = torch.linspace(-1, 3, count, dtype=torch.float64)[:, None]
    poses, target = ((places * axis[:, None] + 5).to(dtype) for axis in (before, after))
    found, shift = superpose(poses, target, all_of(poses))
    torch.testing.assert_close(moved(poses, found, shift), target, rtol=0, atol=1e-5)
    # The smallest rotation that does it: about the normal of both lines.
    angle = rotation_vector(found.double()).norm(dim=-1)
    torch.testing.assert_close(angle, (before * after).sum(-1).acos(), rtol=0, atol=1e-5)


def test_points_on_a_line_that_point_the_other_way_take_half_a_turn() -> None:
    poses = torch.linspace(-1, 1, 5)[:, None] * AXES[:20, None].float()
    found, shift = superpose(poses, -poses, all_of(poses))
    assert_rotations(found, 1e-6)
    torch.testing.assert_close(moved(poses, found, shift), -poses, rtol=0, atol=1e-6)
    again = superpose(poses, -poses, all_of(poses))
    assert found.equal(again[0])
    assert shift.equal(again[1])


def test_superposing_on_itself_is_the_identity_whatever_the_shape() -> None:
    flat = points(2, 6) * torch.tensor([1.0, 1.0, 0.0])
    tetrahedron = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)[None]
    for poses in (points(2, 6), flat, tetrahedron, 1e-8 * points(2, 6), 1e8 * points(2, 6)):
        found, _ = superpose(poses, poses, all_of(poses))
        torch.testing.assert_close(found, torch.eye(3, dtype=torch.float64).expand_as(found), rtol=0, atol=1e-14)


def test_superposition_is_differentiable_and_takes_an_empty_batch() -> None:
    poses, target = points(2, 5).requires_grad_(), points(2, 5, "other").requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: superpose(a, b, all_of(a)), (poses, target))
    found, shift = superpose(torch.empty(0, 5, 3), torch.empty(0, 5, 3), torch.empty(0, 5, dtype=torch.bool))
    assert (found.shape, shift.shape) == ((0, 3, 3), (0, 3))


def test_a_sample_that_is_not_finite_leaves_the_others_alone() -> None:
    points = torch.from_numpy(np.random.default_rng(5).normal(size=(3, 6, 3)))
    turned = points @ rotation_matrix(torch.tensor([0.2, -0.4, 0.1]).double()).mT
    broken = turned.clone()
    broken[1, 2, 0] = torch.nan
    mask = torch.ones(3, 6, dtype=torch.bool)
    rotation, translation = superpose(points, broken, mask)
    expected, _ = superpose(points, turned, mask)
    torch.testing.assert_close(rotation[[0, 2]], expected[[0, 2]])
    assert translation[1].isnan().any()
