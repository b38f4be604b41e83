"""Lower precision of convolutions and matrix products in networks; weights, sums and samplers keep theirs."""

import contextlib
import logging
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch

logger = logging.getLogger("disco")
Precision = Literal["fp32", "bf16", "fp16"]
CPU_BF16 = ("avx512_bf16", "amx_bf16")  # instructions without which bf16 is slower than float32


def low_dtype(device: torch.device, precision: Precision) -> torch.dtype | None:
    """Type of the products on a device; None for float32, which also stands in where the device is not made for it."""
    if precision == "fp32":
        return None
    if device.type == "cuda":
        return torch.bfloat16 if precision == "bf16" else torch.float16
    if precision == "bf16" and _cpu_has_bf16():
        return torch.bfloat16
    logger.warning("precision %s: this device is not made for it; float32 is used", precision)
    return None


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Inside, products are computed in ``dtype``; None changes nothing."""
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def _cpu_has_bf16() -> bool:
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(found.get(name, False) for name in CPU_BF16)
