"""Rotations and rigid motions of space, batched. A rotation vector is a unit axis times an angle in radians.

Rotations pass through unit quaternions (w, x, y, z), whose formulas have no cancellation near the identity and no
singular case near half a turn.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_SMALL = 1e-4  # of a squared angle: below, three or four terms of a Taylor series are exact in float64
_TIE = 1e-10  # eigenvalues closer than this, relative to the largest entry, count as one


def rotation_matrix(vector: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """exp of the cross-product matrix of a rotation vector (Rodrigues), smooth at 0: [..., 3] -> [..., 3, 3]."""
    square = (vector / 2).square().sum(-1, keepdim=True)
    small = square < _SMALL
    half = torch.where(small, 1, square).sqrt()  # the unused branch must not bring an infinite derivative
    sinc = torch.where(small, 1 - square / 6 * (1 - square / 20 * (1 - square / 42)), half.sin() / half)
    cosine = torch.where(small, 1 - square / 2 * (1 - square / 12 * (1 - square / 30)), half.cos())
    return _from_quaternion(torch.cat([cosine, sinc * vector / 2], dim=-1))


def rotation_vector(matrix: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3"]:
    """log of a rotation matrix, with an angle in [0, pi]: [..., 3, 3] -> [..., 3].

    At exactly half a turn the axis has two signs, and one of them is given.
    """
    quaternion = _to_quaternion(matrix)
    real, axis = quaternion[..., :1], quaternion[..., 1:]
    square = axis.square().sum(-1, keepdim=True)
    small = square < _SMALL
    sine = torch.where(small, 1, square).sqrt()
    series = 1 + square / 6 + 3 * square**2 / 40 + 5 * square**3 / 112  # asin(s) / s
    return 2 * axis * torch.where(small, series, torch.atan2(sine, real) / sine)


def random_rotation(normal: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 3 3"]:
    """Rotation matrix, uniform over all rotations, from four standard normal numbers: [..., 4] -> [..., 3, 3]."""
    return _from_quaternion(torch.nn.functional.normalize(normal, dim=-1))


def superpose(
    moving: Float[Tensor, "b n 3"], fixed: Float[Tensor, "b n 3"], mask: Bool[Tensor, "b n"]
) -> tuple[Float[Tensor, "b 3 3"], Float[Tensor, "b 3"]]:
    """Rotation R [B, 3, 3] and translation t [B, 3] with the least squares of R moving + t - fixed over masked points.

    R is a proper rotation. Where several are equally good (one atom, atoms on a line), it is the one closest to the
    identity. Values outside the mask are never looked at; without any point R is the identity and t is zero.
    Gradients are defined where the best rotation is the only one.
    """
    # Horn, "Closed-form solution of absolute orientation using unit quaternions" (1987): the best rotation is the top
    # eigenvector of a 4x4 matrix. Against the SVD of Kabsch: no reflection to repair, the set of all best rotations is
    # at hand as an eigenspace, and eigh of 4x4 is faster than an SVD of 3x3 (40 of them on a CPU: 60 us against 80 us).
    shown = mask[..., None]
    count = shown.sum(1).clamp(min=1)
    source, target = (torch.where(shown, points, 0).double() for points in (moving, fixed))
    source_mean, target_mean = source.sum(1) / count, target.sum(1) / count
    source, target = (
        torch.where(shown, points - mean[:, None], 0) for points, mean in ((source, source_mean), (target, target_mean))
    )
    # A sample that is not finite must not stop the others: its translation, and with it the result, stays NaN.
    matrix = torch.nan_to_num(_horn(source.mT @ target), nan=0.0, posinf=0.0, neginf=0.0)
    values, vectors = torch.linalg.eigh(matrix)
    best = values >= values[:, -1:] - _TIE * values.abs().amax(-1, keepdim=True)
    projector = (vectors * best[:, None]) @ vectors.mT
    # The projection of the identity (1, 0, 0, 0) is the closest optimum; half a turn is at right angles to it.
    pick = torch.where(projector[:, 0, 0] > _TIE, 0, projector.diagonal(dim1=-2, dim2=-1).argmax(-1))
    quaternion = projector.gather(1, pick[:, None, None].expand(-1, 1, 4))[:, 0]
    rotation = _from_quaternion(torch.nn.functional.normalize(quaternion, dim=-1))
    translation = target_mean - (rotation @ source_mean[..., None])[..., 0]
    return rotation.to(moving.dtype), translation.to(moving.dtype)


def _horn(s: Float[Tensor, "b 3 3"]) -> Float[Tensor, "b 4 4"]:
    """Symmetric matrix whose quadratic form in a unit quaternion q is trace(R(q) S), S = sum of source target^T."""
    skew = torch.stack([s[:, 1, 2] - s[:, 2, 1], s[:, 2, 0] - s[:, 0, 2], s[:, 0, 1] - s[:, 1, 0]], dim=-1)
    trace = s.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    block = s + s.mT - trace * torch.eye(3, dtype=s.dtype, device=s.device)
    return torch.cat([torch.cat([trace, skew[:, None]], dim=2), torch.cat([skew[..., None], block], dim=2)], dim=1)


def _from_quaternion(q: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 3 3"]:
    """Rotation matrix of a unit quaternion (w, x, y, z)."""
    products = (2 * q)[..., :, None] * q[..., None, :]
    _, wx, wy, wz, _, xx, xy, xz, _, _, yy, yz, _, _, _, zz = products.flatten(-2).unbind(-1)
    entries = [1 - yy - zz, xy - wz, xz + wy, xy + wz, 1 - xx - zz, yz - wx, xz - wy, yz + wx, 1 - xx - yy]
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))


def _to_quaternion(matrix: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 4"]:
    """Unit quaternion, w >= 0, of a rotation matrix.

    The entries of R give the matrix 4 q q^T, and its row with the largest diagonal entry has no cancellation (Shepperd,
    "Quaternion from rotation matrix", 1978).
    """
    flat = matrix.reshape(-1, 3, 3)
    products = _horn(flat.mT) + torch.eye(4, dtype=matrix.dtype, device=matrix.device)
    pick = products.diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = torch.nn.functional.normalize(products.gather(1, pick[:, None, None].expand(-1, 1, 4))[:, 0], dim=-1)
    return torch.where(row[:, :1] < 0, -row, row).reshape(*matrix.shape[:-2], 4)
