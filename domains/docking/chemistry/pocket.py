"""The part of space that a pocket takes: a box, a sphere, or the surroundings of reference coordinates."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from scipy.spatial import cKDTree

from core.errors import RequestError


@dataclass(frozen=True)
class Box:
    """Box along the axes with ``center`` and full edge lengths ``size``, both (x, y, z) in Angstrom.

    Raises:
        RequestError: numbers that are not finite, a size that is not positive.
    """

    center: tuple[float, float, float]
    size: tuple[float, float, float]

    def __post_init__(self) -> None:
        _check("center of the box", self.center, 3)
        _check("size of the box", self.size, 3, positive=True)

    def contains(self, points: Float64[np.ndarray, "a 3"]) -> Bool[np.ndarray, " a"]:
        """Which points lie in the box or on its faces."""
        return (np.abs(points - np.asarray(self.center)) <= np.asarray(self.size) / 2).all(axis=1)

    def __str__(self) -> str:
        return f"box {_numbers(self.size)} A at {_numbers(self.center)}"


@dataclass(frozen=True)
class Sphere:
    """Sphere with ``center`` (x, y, z) and ``radius``, in Angstrom.

    Raises:
        RequestError: numbers that are not finite, a radius that is not positive.
    """

    center: tuple[float, float, float]
    radius: float

    def __post_init__(self) -> None:
        _check("center of the sphere", self.center, 3)
        _check("radius of the sphere", (self.radius,), 1, positive=True)

    def contains(self, points: Float64[np.ndarray, "a 3"]) -> Bool[np.ndarray, " a"]:
        """Which points lie in the sphere or on it."""
        return np.linalg.norm(points - np.asarray(self.center), axis=1) <= self.radius

    def __str__(self) -> str:
        return f"sphere of {self.radius:g} A at {_numbers(self.center)}"


@dataclass(frozen=True, eq=False)
class Around:
    """All that is within ``margin`` Angstrom of any of the ``coordinates`` [n, 3], those of a reference ligand.

    Raises:
        RequestError: no coordinates, numbers that are not finite, a margin that is not positive.
    """

    coordinates: Float64[np.ndarray, "n 3"]
    margin: float

    def __post_init__(self) -> None:
        shape = np.shape(self.coordinates)
        if len(shape) != 2 or shape[0] == 0 or shape[1] != 3:
            raise RequestError(f"pocket: the reference ligand needs coordinates [n, 3]; these have shape {shape}")
        _check("coordinates of the reference ligand", self.coordinates, 3 * shape[0])
        _check("margin around the reference ligand", (self.margin,), 1, positive=True)

    def contains(self, points: Float64[np.ndarray, "a 3"]) -> Bool[np.ndarray, " a"]:
        """Which points are within the margin."""
        # The bound spares the search of everything far away; it is exclusive.
        bound = np.nextafter(self.margin, np.inf)
        return cKDTree(self.coordinates).query(points, distance_upper_bound=bound)[0] <= self.margin

    def __str__(self) -> str:
        return f"{self.margin:g} A around {len(self.coordinates)} reference atoms"


Pocket = Box | Sphere | Around


def _check(what: str, values: Sequence[float] | np.ndarray, count: int, *, positive: bool = False) -> None:
    array = np.asarray(values, dtype=np.float64)
    if array.size != count:
        raise RequestError(f"pocket: the {what} needs {count} numbers, not {array.size}")
    if not np.isfinite(array).all() or (positive and (array <= 0).any()):
        wanted = "finite and above 0" if positive else "finite"
        raise RequestError(f"pocket: the {what} must be {wanted} (Angstrom), not {_numbers(array.ravel()[:3])}")


def _numbers(values: Sequence[float] | np.ndarray) -> str:
    return "(" + ", ".join(f"{value:g}" for value in np.asarray(values).ravel()) + ")"
