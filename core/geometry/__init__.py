"""Spaces that states live in, each a ``core.interfaces.Geometry``, and the distributions that they are made of."""

from core.geometry.euclidean import Euclidean
from core.geometry.so3 import IGSO3, AuthorsIGSO3

__all__ = ["IGSO3", "AuthorsIGSO3", "Euclidean"]
