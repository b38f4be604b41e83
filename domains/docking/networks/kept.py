"""Results that depend on the proteins and the weights only, kept from call to call of a network in evaluation."""

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from domains.docking.graph import Structure

T = TypeVar("T")


class Kept(Generic[T]):
    """One result per ``Structure``, for as long as that lives and the weights stay what they were."""

    def __init__(self) -> None:
        self._results: WeakKeyDictionary[Structure, tuple[tuple[int, ...], T]] = WeakKeyDictionary()

    def get(self, complexes: Structure, weights: Iterable[Tensor], build: Callable[[], T]) -> T:
        """``build()``, or what it gave before for these weights; where gradients are wanted, always built."""
        if torch.is_grad_enabled():
            return build()
        stamp = tuple(number for w in weights for number in (w._version, w.data_ptr()))
        found = self._results.get(complexes)
        if found is None or found[0] != stamp:
            found = (stamp, build())
            self._results[complexes] = found
        return found[1]
