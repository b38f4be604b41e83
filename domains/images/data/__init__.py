"""Image data: sources of every common format, training batches with augmentation, preparation."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from domains.images.data.dataset import ImageDataset
    from domains.images.data.digits import DATA_FACTS, DataFacts, load_images
    from domains.images.data.sources import ImageSource, open_source

__all__ = ["DATA_FACTS", "DataFacts", "ImageDataset", "ImageSource", "load_images", "open_source"]

_PLACES = {
    "DATA_FACTS": "digits",
    "DataFacts": "digits",
    "load_images": "digits",
    "ImageDataset": "dataset",
    "ImageSource": "sources",
    "open_source": "sources",
}


def __getattr__(name: str) -> Any:
    """What the package exports, imported when asked for: the command line must stay light."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
