"""Spaces that states live in. Each implements ``core.interfaces.Geometry``."""

from core.geometry.euclidean import Euclidean

__all__ = ["Euclidean"]
