"""The tensor product convolution and the batch norm of irreps against e3nn; gradients; edges in every arrangement."""

import pytest
import torch
from e3nn import nn as enn
from e3nn import o3
from torch import Tensor, nn
from torch.func import functional_call

from domains.docking.networks import convolution
from domains.docking.networks.convolution import TensorProductConv, e3nn_rows
from domains.docking.networks.edges import Edges, Table
from domains.docking.networks.irreps import Irreps, IrrepsBatchNorm
from domains.docking.networks.layers import unit_times_root3
from domains.docking.networks.products import Harmonics, Product

WIDE = Irreps(5, 3, 2, 4)
# Receivers with many, few and no edges; a source without any; two edges of length zero (3 <- 3 and 5 <- 5).
RAGGED = ([0, 0, 0, 0, 1, 3, 3, 5, 5, 2, 1], [1, 2, 3, 5, 0, 3, 2, 5, 1, 0, 4])
DENSE = ([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6], [1, 2, 0, 5, 4, 6, 2, 0, 1, 3, 6, 0, 2, 5])
NONE: tuple[list[int], list[int]] = ([], [])
NODES = 7


def make(index: tuple[list[int], list[int]], channels: int = 3) -> tuple[Edges, Tensor]:
    """Edges between random points, with random features; the vectors from receivers to sources."""
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(NODES, 3, generator=generator, dtype=torch.float64)
    receiver, source = (torch.tensor(x, dtype=torch.long) for x in index)
    vector = points[source] - points[receiver]
    embedding = torch.randn(len(receiver), channels, generator=generator, dtype=torch.float64)
    unit = unit_times_root3(vector, vector.norm(dim=1))
    return Edges(receiver, source, unit, embedding, Table.of(receiver, NODES), NODES), vector


def conv_of(inputs: Irreps, outputs: Irreps, harmonics: Harmonics) -> TensorProductConv:
    torch.manual_seed(0)
    return TensorProductConv(Product(inputs, outputs, harmonics), 3, 2, 2, 6, 0.0).double()


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def e3nn_irreps(irreps: Irreps) -> o3.Irreps:
    kinds = zip(irreps.counts, ("0e", "1o", "1e", "0o"), strict=True)
    return o3.Irreps([(count, kind) for count, kind in kinds if count])


def by_e3nn(conv: TensorProductConv, x: Tensor, edges: Edges, vector: Tensor) -> Tensor:
    """The same messages with weights formed for every edge, by e3nn's tensor product; in our column order."""
    product = conv.product
    degree = 2 if product.harmonics == 2 else 1
    harmonics = o3.Irreps.spherical_harmonics(degree)
    torch.set_default_dtype(torch.float64)  # the dtype of its Wigner 3j symbols
    try:
        reference = o3.FullyConnectedTensorProduct(
            e3nn_irreps(product.inputs), harmonics, e3nn_irreps(product.outputs), shared_weights=False
        )
    finally:
        torch.set_default_dtype(torch.float32)
    s = o3.spherical_harmonics(harmonics, vector, normalize=True, normalization="component")
    hidden = torch.cat([edges.embedding, x[edges.receiver, :2], x[edges.source, :2]], dim=1)
    ours = conv.weights(conv.hidden(hidden).relu())
    weights = torch.empty_like(ours)
    weights[:, e3nn_rows(product)] = ours
    messages = reference(x[:, product.inputs.e3nn_order()][edges.source], s, weights)
    out = messages.new_zeros(NODES, messages.shape[1]).index_add_(0, edges.receiver, messages)
    result = torch.empty_like(out)
    result[:, product.outputs.e3nn_order()] = out
    return result


@pytest.mark.parametrize("index", [RAGGED, DENSE], ids=["ragged", "dense"])
@pytest.mark.parametrize("harmonics", [1, 2])
@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [(Irreps(5), Irreps(5, 3)), (Irreps(5, 3), Irreps(5, 3, 3)), (WIDE, WIDE), (WIDE, Irreps(vectors=2, axials=2))],
)
def test_convolution_equals_e3nn(
    inputs: Irreps, outputs: Irreps, harmonics: Harmonics, index: tuple[list[int], list[int]]
) -> None:
    conv, x = conv_of(inputs, outputs, harmonics), random(NODES, inputs.dim)
    edges, vector = make(index)
    expected = by_e3nn(conv, x, edges, vector)
    torch.testing.assert_close(conv(x, edges, x), expected, rtol=1e-12, atol=1e-13)
    with torch.no_grad():
        torch.testing.assert_close(conv(x, edges, x), expected, rtol=1e-12, atol=1e-13)


def test_any_chunk_size_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, x, (edges, _) = conv_of(WIDE, WIDE, 2), random(NODES, WIDE.dim), make(RAGGED)
    results = []
    for size in (1, 3000, 2**22):
        monkeypatch.setitem(convolution.CHUNK_BYTES, "cpu", size)
        leaf = x.clone().requires_grad_()
        out = conv(leaf, edges, leaf)
        gradients = torch.autograd.grad(out.square().sum(), [leaf, *conv.parameters()])
        results.append((out, *gradients))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 2**22])
@pytest.mark.parametrize("harmonics", [1, 2, "vector"])
@pytest.mark.parametrize("index", [RAGGED, DENSE, NONE], ids=["ragged", "dense", "none"])
def test_gradients(
    index: tuple[list[int], list[int]], harmonics: Harmonics, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of features, edge vectors, edge features and all weights, by finite differences."""
    monkeypatch.setitem(convolution.CHUNK_BYTES, "cpu", chunk)
    inputs = Irreps(2, 1, 1, 1)
    outputs = Irreps(scalars=1, pseudoscalars=1) if harmonics == "vector" else Irreps(1, 2, 1, 1)
    conv, (edges, _) = conv_of(inputs, outputs, harmonics), make(index)
    names = [name for name, _ in conv.named_parameters()]

    def call(x: Tensor, vector: Tensor, embedding: Tensor, *parameters: Tensor) -> Tensor:
        moved = edges.turned_to(vector).embed(embedding)
        return functional_call(conv, dict(zip(names, parameters, strict=True)), (x, moved, x))

    leaves = [random(NODES, inputs.dim), edges.vector, edges.embedding, *conv.parameters()]
    torch.autograd.gradcheck(call, [leaf.detach().clone().requires_grad_() for leaf in leaves], fast_mode=chunk == 1)


def test_no_edges_give_zeros() -> None:
    conv, (edges, _) = conv_of(WIDE, WIDE, 1), make(NONE)
    assert conv(random(NODES, WIDE.dim), edges, random(NODES, WIDE.dim)).equal(torch.zeros(NODES, WIDE.dim).double())


def test_edges_into_some_receivers_give_those_rows() -> None:
    conv, x, (edges, _) = conv_of(WIDE, WIDE, 2), random(NODES, WIDE.dim), make(RAGGED)
    rows = torch.tensor([5, 4, 0])
    torch.testing.assert_close(conv(x, edges.into(rows), x), conv(x, edges, x)[rows], rtol=1e-12, atol=1e-13)


def test_reversed_edges_are_the_same_edges_read_from_the_other_end() -> None:
    conv, x, (edges, vector) = conv_of(WIDE, WIDE, 2), random(NODES, WIDE.dim), make(RAGGED)
    other = Edges(edges.source, edges.receiver, edges.vector, edges.embedding, Table.of(edges.source, NODES), NODES)
    torch.testing.assert_close(conv(x, edges.reverse(), x), by_e3nn(conv, x, other, vector), rtol=1e-12, atol=1e-13)
    turned = edges.reverse().turned()
    torch.testing.assert_close(conv(x, turned, x), by_e3nn(conv, x, other, -vector), rtol=1e-12, atol=1e-13)


def test_table_lists_every_edge_once() -> None:
    node = torch.tensor([2, 0, 2, 4, 0, 2])
    table = Table.of(node, 5)
    assert table.degree.tolist() == [2, 0, 3, 0, 1]
    assert table.entries.tolist() == [[1, 4, 6], [6, 6, 6], [0, 2, 5], [6, 6, 6], [3, 6, 6]]
    assert not table.dense
    assert Table.of(torch.tensor([0, 0, 1, 1]), 2).dense
    assert not Table.of(torch.tensor([1, 1, 0, 0]), 2).dense


def test_dropout_leaves_the_bias_alone() -> None:
    """With everything dropped, weights are the bias of their layer."""
    conv, x, (edges, _) = conv_of(WIDE, WIDE, 1), random(NODES, WIDE.dim), make(RAGGED)
    conv.dropout.p = 1.0
    dropped = conv.train()(x, edges, x)
    with torch.no_grad():
        conv.weights.weight.zero_()
    torch.testing.assert_close(dropped, conv.eval()(x, edges, x), rtol=1e-12, atol=1e-13)


def test_new_weights_are_seen() -> None:
    conv, x, (edges, _) = conv_of(WIDE, WIDE, 1), random(NODES, WIDE.dim), make(RAGGED)
    with torch.no_grad():
        before = conv(x, edges, x)
        conv.weights.weight.mul_(2)
        conv.weights.bias.mul_(2)
        torch.testing.assert_close(conv(x, edges, x), 2 * before)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_equals_e3nn(training: bool) -> None:
    ours, theirs = IrrepsBatchNorm(WIDE).double(), enn.BatchNorm(e3nn_irreps(WIDE)).double()
    for name, value in ours.state_dict().items():
        drawn = random(*value.shape)
        new = drawn.abs() + 0.5 if name in ("weight", "running_var") else drawn
        value.copy_(new)
        theirs.state_dict()[name].copy_(new)
    order, x = WIDE.e3nn_order(), random(20, WIDE.dim)
    modules: tuple[nn.Module, ...] = (ours, theirs)
    for module in modules:
        module.train(training)
    torch.testing.assert_close(ours(x)[:, order], theirs(x[:, order]), rtol=1e-12, atol=1e-12)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=1e-12, atol=1e-12)
