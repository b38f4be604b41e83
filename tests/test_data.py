"""Datasets in memory, and the order in which training sees samples."""

import hashlib
from itertools import pairwise

import numpy as np
import pytest
import torch

from core.data import EpochOrder, TensorDataset
from core.interfaces import Dataset

POINTS = torch.arange(12.0).reshape(6, 2)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def epoch(order: EpochOrder, number: int) -> list[int]:
    return order.indices(range(number * order.size, (number + 1) * order.size)).tolist()


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_every_epoch_is_a_permutation(size: int) -> None:
    order = EpochOrder(size, seed=0)
    for number in range(4):
        assert sorted(epoch(order, number)) == list(range(size))


def test_epochs_differ() -> None:
    order = EpochOrder(50, seed=0)
    assert len({tuple(epoch(order, number)) for number in range(10)}) == 10


def test_seeds_differ_and_a_seed_repeats() -> None:
    assert epoch(EpochOrder(50, 0), 0) != epoch(EpochOrder(50, 1), 0)
    assert epoch(EpochOrder(50, 1), 3) == epoch(EpochOrder(50, 1), 3)


def test_no_epoch_is_left_in_the_order_of_the_data() -> None:
    assert epoch(EpochOrder(50, 0), 0) != list(range(50))


@pytest.mark.parametrize("cuts", [[3], [7], [1, 2, 3, 20], [6, 7, 8, 14, 15]])
def test_any_split_of_the_places_gives_the_same_samples(cuts: list[int]) -> None:
    whole = EpochOrder(7, seed=5).indices(range(24))
    order = EpochOrder(7, seed=5)
    edges = [0, *cuts, 24]
    parts = [order.indices(range(a, b)) for a, b in pairwise(edges)]
    assert np.concatenate(parts).tolist() == whole.tolist()


def test_places_can_be_asked_for_in_any_order() -> None:
    order = EpochOrder(7, seed=5)
    late, early = order.indices(range(20, 24)), order.indices(range(4))
    whole = EpochOrder(7, seed=5).indices(range(24))
    assert late.tolist() == whole[20:].tolist()
    assert early.tolist() == whole[:4].tolist()


def test_a_batch_larger_than_the_data_sees_samples_again() -> None:
    counts = np.bincount(EpochOrder(4, seed=0).indices(range(12)), minlength=4)
    assert counts.tolist() == [3, 3, 3, 3]


def test_far_places_need_no_history() -> None:
    assert len(EpochOrder(10, seed=0).indices(range(10**9, 10**9 + 5))) == 5


def test_a_dataset_gives_what_was_asked_for_in_that_order() -> None:
    batch = TensorDataset({"x": POINTS}, LABELS).load([4, 0, 4], ids=[9, 8, 7])
    assert batch.ids.tolist() == [9, 8, 7]
    assert torch.equal(batch.clean["x"], POINTS[[4, 0, 4]])
    assert batch.label is not None
    assert batch.label.tolist() == [1, 0, 1]


def test_a_dataset_loads_by_numpy_indices_and_ranges_alike() -> None:
    dataset = TensorDataset({"x": POINTS})
    first, second = dataset.load(np.array([1, 2]), np.array([0, 1])), dataset.load(range(1, 3), range(2))
    assert torch.equal(first.clean["x"], second.clean["x"])
    assert first.ids.tolist() == second.ids.tolist()
    assert first.label is None


def test_all_fields_are_loaded_together() -> None:
    batch = TensorDataset({"x": POINTS, "y": POINTS[:, :1] * 2}).load([3], [0])
    assert batch.clean["y"].item() == 2 * batch.clean["x"][0, 0].item()
    assert len(TensorDataset({"x": POINTS})) == 6


def test_an_index_past_the_end_is_an_error() -> None:
    with pytest.raises(IndexError):
        TensorDataset({"x": POINTS}).load([6], [0])


def test_the_hash_is_that_of_names_shapes_types_and_bytes() -> None:
    expected = hashlib.sha256(b"x(6, 2)torch.float32" + POINTS.numpy().tobytes()).hexdigest()
    assert TensorDataset({"x": POINTS}).content_hash == expected
    assert TensorDataset({"x": POINTS.clone()}).content_hash == expected


def test_the_hash_changes_with_everything_that_is_data() -> None:
    changed = POINTS.clone()
    changed[5, 1] += 1e-6
    hashes = [
        TensorDataset({"x": POINTS}),
        TensorDataset({"x": changed}),
        TensorDataset({"y": POINTS}),
        TensorDataset({"x": POINTS.reshape(6, 1, 2)}),
        TensorDataset({"x": POINTS.double()}),
        TensorDataset({"x": POINTS}, LABELS),
        TensorDataset({"x": POINTS}, LABELS.flip(0)),
    ]
    assert len({dataset.content_hash for dataset in hashes}) == len(hashes)


def test_the_hash_does_not_depend_on_memory_layout_or_order_of_fields() -> None:
    transposed = POINTS.T.contiguous().T
    assert not transposed.is_contiguous()
    assert TensorDataset({"x": transposed}).content_hash == TensorDataset({"x": POINTS}).content_hash
    one, other = {"a": POINTS, "b": LABELS.float()}, {"b": LABELS.float(), "a": POINTS}
    assert TensorDataset(one).content_hash == TensorDataset(other).content_hash


def test_a_tensor_dataset_is_a_dataset() -> None:
    assert isinstance(TensorDataset({"x": POINTS}), Dataset)
