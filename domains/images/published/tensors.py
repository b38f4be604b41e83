"""Tensors as PyTorch writes them into an ordinary pickle, decoded from records of ``read_pickle``.

A tensor is a call of ``_rebuild_tensor_v2`` with a storage; the storage is a call of ``_load_from_bytes`` with bytes in
the layout of ``torch.save`` before 1.6: five pickles (magic number, version, machine, description, keys), then the
count of elements and the elements.
"""

import io
import math
import reprlib
import sys
from typing import Any

import torch
from torch import Tensor

from core.errors import CheckpointError
from domains.images.published.pickles import Name, Record, read_pickle

TENSOR, PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
STORAGE = "torch.storage._load_from_bytes"
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_DTYPES = {
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.DoubleStorage": torch.float64,
}


def decode_tensor(value: Any) -> Tensor:
    """Contiguous float32 tensor of a record of a tensor or parameter. Raises CheckpointError (without the file's name)
    where the record is something else, its numbers are no floating-point ones, or sizes do not fit its bytes."""
    if isinstance(value, Record) and value.name == PARAMETER and value.args:
        value = value.args[0]
    if not isinstance(value, Record) or value.name != TENSOR or len(value.args) not in (6, 7):
        raise CheckpointError("is no tensor that can be read")
    storage, offset, size, stride = value.args[:4]
    numbers = (offset, *size, *stride) if isinstance(size, tuple) and isinstance(stride, tuple) else (None,)
    if not all(type(n) is int and n >= 0 for n in numbers) or len(size) != len(stride):
        raise CheckpointError("has no valid shape")
    elements = _decode_storage(storage)
    # Strides of zero would let a few bytes stand for any number of elements.
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) > len(elements) or (math.prod(size) and last >= len(elements)):
        raise CheckpointError(f"has shape {reprlib.repr(size)}, and its {len(elements)} elements do not fill that")
    return elements.as_strided(size, stride, offset).to(torch.float32).clone(memory_format=torch.contiguous_format)


def _decode_storage(value: Any) -> Tensor:
    """All elements of a storage, one-dimensional."""
    if not isinstance(value, Record) or value.name != STORAGE or [type(a) for a in value.args] != [bytes]:
        raise CheckpointError("has no elements that can be read")
    data: bytes = value.args[0]
    stream = io.BytesIO(data)
    magic, version, machine, described, _ = (read_pickle(stream, _DTYPES) for _ in range(5))
    if magic != _MAGIC or version != _VERSION or not isinstance(machine, dict):
        raise CheckpointError("has elements in a layout that is not PyTorch's")
    if machine.get("little_endian") is not True or sys.byteorder != "little":
        raise CheckpointError("has elements in another byte order than this machine's")
    match described:
        case Record("persistent id", (("storage", Name(kind), _, _, int(count), None),)) if kind in _DTYPES:
            dtype = _DTYPES[kind]
        case _:
            raise CheckpointError("has elements of a kind that EDM networks do not have")
    start = stream.tell() + 8
    if int.from_bytes(data[start - 8 : start], "little") != count or len(data) - start != count * dtype.itemsize:
        raise CheckpointError(f"declares {count} elements, and its bytes are not those of as many")
    return torch.frombuffer(bytearray(data[start:]), dtype=dtype) if count else torch.empty(0, dtype=dtype)
