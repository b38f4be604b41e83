"""Let torchvision's CUDA wheel be imported beside a CPU build of PyTorch.

PyPI's Linux wheel of torchvision registers meta kernels for ``torchvision::nms`` at import, and dies where its
compiled operators do not load (``operator torchvision::nms does not exist``). timm imports torchvision. Declaring the
two operator schemas first lets the import through; the operators themselves, and ``torchvision.io``, stay unusable.
A torchvision that imports by itself is not touched.
"""

import importlib
import sys
from typing import Any

import torch

from core.errors import ConfigError

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library: list[Any] = []  # the declarations live as long as this reference


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"images need the package '{error.name}': pip install 'disco-diff[images]'") from error


def import_timm() -> Any:
    """timm, with torchvision made importable where its native operators are missing."""
    try:
        _import("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms" + _SCHEMA)
        library.define("qnms" + _SCHEMA)
        _library.append(library)
        importlib.import_module("torchvision")
    return _import("timm")
