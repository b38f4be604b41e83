"""Complexes with known poses: where they lie, how they are prepared and kept, what they share with each other."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from domains.docking.data.dataset import DockingDataset
    from domains.docking.data.prepare import read_complex
    from domains.docking.data.sources import complex_files

__all__ = ["DockingDataset", "complex_files", "read_complex"]


_PLACES = {"DockingDataset": "dataset", "read_complex": "prepare", "complex_files": "sources"}


def __getattr__(name: str) -> Any:
    """What the package exports, imported when asked for: the command line must stay light."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
