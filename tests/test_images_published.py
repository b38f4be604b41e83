"""Pickles in the layout of EDM's: read exactly, refused where they are anything else, and never executed."""

import copy
import io
import os
import pickle
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.errors import CheckpointError
from core.types import Batch
from domains.images.networks.adm import ADMSettings, DhariwalUNet
from domains.images.networks.layers import Resample
from domains.images.networks.song import SongSettings, SongUNet
from domains.images.published import read_edm

SIZES: dict[str, Any] = {"channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4], "dropout": 0.1}
GIVEN: dict[str, dict[str, Any]] = {
    "SongUNet": {**SIZES, "model_channels": 8, "encoder_type": "residual", "embedding_type": "fourier",
                 "channel_mult_noise": 2, "resample_filter": [1, 3, 3, 1], "augment_dim": 9},
    "DhariwalUNet": {**SIZES, "model_channels": 32},
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "EDMPrecond": {"sigma_min": 0, "sigma_max": float("inf"), "sigma_data": 0.5},
    "VPPrecond": {
        "sigma_min": 0.001,
        "sigma_max": 152.0,
        "beta_d": 19.9,
        "beta_min": 0.1,
        "M": 1000,
        "epsilon_t": 1e-5,
    },
    "VEPrecond": {"sigma_min": 0.02, "sigma_max": 100},
    "iDDPMPrecond": {"sigma_min": 0.0064, "sigma_max": 20291.0, "C_1": 0.001, "C_2": 0.008, "M": 1000},
}
HARMLESS = "raise AssertionError('the source code in the file was run')\n"


class Call:
    """Is pickled as a call of ``function`` with ``args``."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.args


class Persistent(Call):
    """An object as EDM writes it. source: the code that EDM would run on loading."""

    def __init__(self, kind: str, state: dict[str, Any], source: str = HARMLESS) -> None:
        self.meta = {"type": "class", "version": 6, "module_src": source, "class_name": kind, "state": state}
        super().__init__(_reconstruct_persistent_obj, self.meta)

    @property
    def state(self) -> dict[str, Any]:
        state = self.meta["state"]
        assert isinstance(state, dict)
        return state


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> Any:
    raise AssertionError("called on reading")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class EasyDict(dict[str, Any]):
    """Stands for dnnlib.util's."""


EasyDict.__module__ = "dnnlib.util"


def attributes(**more: Any) -> dict[str, Any]:
    """Attributes of a module without content, as PyTorch has them."""
    own = {"training": False, "_parameters": OrderedDict(), "_buffers": OrderedDict(), "_modules": OrderedDict()}
    return {**own, "_non_persistent_buffers_set": set(), "_forward_hooks": OrderedDict(), **more}


@cache
def made(kind: str, precond: str = "EDMPrecond", label_dim: int = 3) -> SongUNet | DhariwalUNet:
    """A network with weights that are all different. No test changes them."""
    sizes: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in GIVEN[kind].items()}
    sizes |= {"img_resolution": 8, "label_dim": label_dim, "out_channels": 6 if precond == "iDDPMPrecond" else 3}
    network = SongUNet(SongSettings(**sizes)) if kind == "SongUNet" else DhariwalUNet(ADMSettings(**sizes))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for value in network.state_dict().values():
            value.copy_(0.2 * torch.randn(value.shape, generator=generator))
    return network.eval()


def as_edm(network: nn.Module, kind: str, **arguments: Any) -> Persistent:
    """The network as EDM would have it: modules within modules, dictionaries of modules, filters as buffers."""

    def written(module: nn.Module, name: str) -> Any:
        inner = {n: written(child, n) for n, child in module.named_children() if n not in ("dropout", "resample")}
        if isinstance(module, nn.ModuleDict):
            container = nn.ModuleDict()
            container._modules = inner
            return container
        state = attributes(_modules=OrderedDict(inner))
        state["_parameters"].update(module._parameters)
        if isinstance(module, Resample) or isinstance(getattr(module, "resample", None), Resample):
            taps = torch.tensor(GIVEN[kind].get("resample_filter", [1, 1]), dtype=torch.float32)
            state["_buffers"]["resample_filter"] = torch.outer(taps, taps)[None, None] / taps.sum() ** 2
        else:
            state["_buffers"].update(module._buffers)
        return Persistent(type(module).__name__, {**state, "skip_scale": np.sqrt(0.5), "_init_args": ()})

    whole = written(network, "model")
    whole.meta["class_name"] = kind
    whole.state.update(_init_args=(), _init_kwargs={**GIVEN[kind], **arguments})
    return whole


def content(kind: str = "DhariwalUNet", precond: str = "EDMPrecond", label_dim: int = 3) -> dict[str, Any]:
    """What EDM's training saves, to be pickled by ``written``."""
    channels = {"in_channels": 3, "out_channels": 6 if precond == "iDDPMPrecond" else 3}
    model = as_edm(made(kind, precond, label_dim), kind, img_resolution=8, label_dim=label_dim, **channels)
    outer = attributes(_modules=OrderedDict(model=model), _init_args=(), _init_kwargs={"model_type": kind})
    outer |= {"img_resolution": 8, "img_channels": 3, "label_dim": label_dim, "use_fp16": True, **KINDS[precond]}
    if precond == "iDDPMPrecond":
        outer["_buffers"]["u"] = torch.zeros(1001)
    return {
        "ema": Persistent(precond, outer),
        "loss_fn": Persistent("EDMLoss", {"P_mean": -1.2, "_init_args": (), "_init_kwargs": {}}),
        "augment_pipe": None,
        "dataset_kwargs": EasyDict(class_name="training.dataset.ImageFolderDataset", use_labels=True),
    }


def dumped(value: Any, protocol: int = 4) -> bytes:
    """Pickle, with the modules there that a pickle of EDM refers to."""
    modules = {name: ModuleType(name) for name in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")}
    vars(modules["torch_utils.persistence"])["_reconstruct_persistent_obj"] = _reconstruct_persistent_obj
    vars(modules["dnnlib.util"])["EasyDict"] = EasyDict
    sys.modules.update(modules)
    try:
        return pickle.dumps(value, protocol)
    finally:
        for name in modules:
            del sys.modules[name]


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def to_file(value: Any, name: str = "network.pkl", protocol: int = 4) -> Path:
        path = tmp_path / name
        path.write_bytes(value if isinstance(value, bytes) else dumped(value, protocol))
        return path

    return to_file


Save = Callable[..., Path]


def output(network: SongUNet | DhariwalUNet) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 3, 8, 8, generator=generator)
    label = torch.tensor([0, 2]) if network.settings.label_dim else None
    with torch.no_grad():
        return network.raw(x, torch.tensor([0.3, -1.0]), None, Batch(torch.arange(2), label=label))


def model_of(saved: dict[str, Any]) -> Persistent:
    model: Persistent = saved["ema"].state["_modules"]["model"]
    return model


@pytest.mark.parametrize("precond", KINDS)
@pytest.mark.parametrize("kind", GIVEN)
def test_a_network_comes_back_exactly(kind: str, precond: str, save: Save) -> None:
    label_dim = 0 if precond == "VEPrecond" else 3
    found = read_edm(save(content(kind, precond, label_dim)))
    assert found is not None
    assert (found.precondition, found.model_type, found.label_dropout) == (precond, kind, 0)
    expected = {"img_resolution": 8, "img_channels": 3, "label_dim": label_dim, "use_fp16": True, **KINDS[precond]}
    expected.pop("epsilon_t", None)
    assert dict(found.arguments) == expected
    original = made(kind, precond, label_dim)
    assert found.settings == original.settings
    for name, value in original.state_dict().items():
        torch.testing.assert_close(found.state[name], value, rtol=0, atol=0)
    torch.testing.assert_close(output(found.build()), output(original), rtol=0, atol=0)


@pytest.mark.parametrize("protocol", [3, 5])
def test_every_pickle_protocol_gives_the_same(protocol: int, save: Save) -> None:
    found = read_edm(save(content("SongUNet"), protocol=protocol))
    assert found is not None
    torch.testing.assert_close(output(found.build()), output(made("SongUNet")), rtol=0, atol=0)


def test_arguments_that_are_not_given_have_edms_defaults(save: Save) -> None:
    saved = content()
    for name in ("dropout", "in_channels", "out_channels"):
        del model_of(saved).state["_init_kwargs"][name]
    model_of(saved).state["_init_kwargs"] |= {"label_dropout": np.float64(0.25)}
    found = read_edm(save(saved))
    assert found is not None
    assert (found.settings.dropout, found.settings.in_channels, found.label_dropout) == (0.1, 3, 0.25)


def test_weights_of_other_precisions_and_strides_become_float32(save: Save) -> None:
    saved = content()
    parameters = model_of(saved).state["_modules"]["map_layer0"].state["_parameters"]
    weight = parameters["weight"].detach()
    expected = {torch.float64: weight, torch.float16: weight.half().float(), torch.bfloat16: weight.bfloat16().float()}
    for dtype, value in expected.items():
        transposed = weight.t().contiguous().to(dtype).t()
        parameters["weight"] = nn.Parameter(transposed)
        found = read_edm(save(saved))
        assert found is not None
        torch.testing.assert_close(found.state["map_layer0.weight"], value, rtol=0, atol=0)


def test_what_is_no_pickle_of_edm_is_left_to_others(save: Save, tmp_path: Path) -> None:
    assert read_edm(tmp_path) is None
    assert read_edm(tmp_path / "absent.pkl") is None
    torch.save({"weight": torch.ones(3)}, tmp_path / "weights.pt")
    assert read_edm(tmp_path / "weights.pt") is None
    assert read_edm(save(b"\x89PNG\r\n", "image.png")) is None
    assert read_edm(save(content(), "renamed.bin")) is not None


@pytest.mark.parametrize("share", range(10))
def test_a_truncated_file_is_refused(share: int, save: Save) -> None:
    whole = dumped(content())
    with pytest.raises(CheckpointError, match=r"network\.pkl: (damaged, or no pickle|the file is empty)"):
        read_edm(save(whole[: len(whole) * share // 10]))
    if share == 9:
        with pytest.raises(CheckpointError, match="damaged"):
            read_edm(save(whole[:-1]))


@pytest.mark.parametrize(
    "data", [b"not a pickle", b"PK\x03\x04" + bytes(100), b"\x80\x04.", bytes(64), b"\x80\x04]q\x00N"]
)
def test_other_bytes_are_refused(data: bytes, save: Save) -> None:
    with pytest.raises(CheckpointError, match=r"no pickle|not part of an EDM network"):
        read_edm(save(data))


# ---------------------------------------------------------------------------- files that would run something


def _inside_a_tensor(harm: Call) -> Any:
    """A storage whose own pickle holds the harm, where PyTorch writes the byte order of the machine."""
    stream = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": harm}):
        pickle.dump(part, stream, 2)
    storage = Call(torch.storage._load_from_bytes, stream.getvalue())
    return Call(torch._utils._rebuild_tensor_v2, storage, 0, (1,), (1,), False, OrderedDict())


def _hidden(place: str, harm: Call) -> Any:
    saved = content()
    if place == "top":
        return harm
    if place in saved:
        saved[place] = harm
    elif place == "argument":
        model_of(saved).state["_init_kwargs"]["dropout"] = harm
    elif place == "chain":  # a call of what a call gives
        saved["loss_fn"] = Call(getattr, Call(__import__, "os"), "system")
    elif place == "weight":
        model_of(saved).state["_modules"]["map_layer0"].state["_parameters"]["weight"] = harm
    else:
        weights = model_of(saved).state["_modules"]["map_layer0"].state["_parameters"]
        weights["weight"] = _inside_a_tensor(harm)
    return saved


PLACES = ["top", "ema", "loss_fn", "augment_pipe", "dataset_kwargs", "argument", "chain", "weight", "inside a tensor"]


@pytest.mark.parametrize("place", PLACES)
def test_calls_are_refused_by_name_and_not_made(place: str, save: Save, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    name = {"chain": "builtins.getattr|builtins.__import__"}.get(place, f"{os.name}.system")
    if place == "inside a tensor":  # written in protocol 2, where a tensor is
        name = f"tensor map_layer0.weight: {name}"
    with pytest.raises(CheckpointError, match=rf"({name}): not part of an EDM network; nothing was executed"):
        read_edm(save(_hidden(place, Call(os.system, f"touch {mark}"))))
    assert not mark.exists()


def test_the_same_file_is_harmful_to_pickle(save: Save, tmp_path: Path) -> None:
    """The tests above would see a call if one were made."""
    mark = tmp_path / "executed"
    path = save(_hidden("top", Call(os.system, f"touch {mark}")))
    pickle.loads(path.read_bytes())
    assert mark.exists()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "os.system"),
        (b"\x80\x04cbuiltins\neval\n\x8c\x011\x85R.", "builtins.eval"),
        (b"(ios\nsystem\n.", "os.system"),
        (b"\x80\x04\x8c\x17torch_utils.persistence\x8c\x27_reconstruct_persistent_obj.__globals__\x93.", "__globals__"),
        (b"\x80\x04\x82\x01.", "EXT1"),
        (b"\x80\x02U\x01a.", "SHORT_BINSTRING"),
    ],
)
def test_opcodes_that_pickles_of_edm_do_not_have(data: bytes, name: str, save: Save) -> None:
    with pytest.raises(CheckpointError, match=f"{name}: not part of an EDM network; nothing was executed"):
        read_edm(save(data))


def test_source_code_in_a_file_is_not_run(save: Save, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    saved = content()
    saved["ema"].meta["module_src"] = f"open({str(mark)!r}, 'w')\n"
    found = read_edm(save(saved))
    assert found is not None
    assert any("was not run" in note for note in found.notes)
    found.build()
    assert not mark.exists()


def test_attributes_of_allowed_names_cannot_be_set(save: Save) -> None:
    """BUILD on a name, which in Python's unpickler would change the function itself."""
    name = b"ctorch._utils\n_rebuild_parameter\n"
    with pytest.raises(CheckpointError, match="BUILD of something that is no object"):
        read_edm(save(b"\x80\x04" + name + b"}\x8c\x01a\x8c\x01bsb."))


# ---------------------------------------------------------------------------- declared sizes


def _storage(elements: int, declared: int | None = None) -> Call:
    """As PyTorch writes it, with another count of elements at its end."""
    (data,) = torch.ones(elements).__reduce_ex__(4)[1][0].__reduce__()[1]
    place = len(data) - 4 * elements - 8
    assert struct.unpack_from("<q", data, place) == (elements,)
    count = struct.pack("<q", elements if declared is None else declared)
    return Call(torch.storage._load_from_bytes, data[:place] + count + data[place + 8 :])


def _tensor(size: Any, stride: Any, offset: Any = 0, storage: Call | None = None) -> Call:
    return Call(torch._utils._rebuild_tensor_v2, storage or _storage(4), offset, size, stride, False, OrderedDict())


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        (lambda: _tensor((1 << 40,), (1,)), "do not fill that"),
        (lambda: _tensor((1 << 20, 1 << 20), (0, 0)), "do not fill that"),
        (lambda: _tensor((4,), (1,), 1), "do not fill that"),
        (lambda: _tensor((4,), (-1,), 3), "no valid shape"),
        (lambda: _tensor((4.0,), (1,)), "no valid shape"),
        (lambda: _tensor((2, 2), (2,)), "no valid shape"),
        (lambda: _tensor((4,), (1,), 0, _storage(4, 1 << 62)), "declares 4 elements"),
        (lambda: _tensor((4,), (1,), 0, Call(torch.storage._load_from_bytes, b"")), "damaged"),
        (lambda: torch.arange(4), "LongStorage: not part of an EDM network"),
        (lambda: torch.tensor([1.0, torch.nan]), "not finite"),
        (lambda: "text", "no tensor"),
    ],
)
def test_tensors_that_do_not_fit_their_bytes(tensor: Callable[[], Any], problem: str, save: Save) -> None:
    saved = content()
    model_of(saved).state["_modules"]["map_layer0"].state["_parameters"]["bias"] = tensor()
    with pytest.raises(CheckpointError, match=rf"network\.pkl: tensor map_layer0\.bias: .*{problem}"):
        read_edm(save(saved))


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"abc.",  # bytes
        b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"abc.",  # text
        b"\x80\x04N\x95" + struct.pack("<Q", 1 << 62) + b".",  # frame
        b"\x80\x04Nr\xff\xff\xff\xff.",  # number in the memo
        b"\x80\x04" + b")" + b"\x85" * 200_000 + b"}\x94h\x00.",  # tuples in tuples
        b"\x80\x04}" + b")" + b"\x85" * 200_000 + b"Ns.",  # the same as a key
        b"\x80\x04}\x8c\x03ema" + b"]" * 100_000 + b"a" * 99_999 + b"s.",  # lists in lists
    ],
)
def test_a_small_file_cannot_ask_for_much(data: bytes, save: Save) -> None:
    with pytest.raises(CheckpointError):
        read_edm(save(data))


def test_bytes_that_are_used_again_and_again(save: Save) -> None:
    saved = content()
    once = _tensor((100_000,), (1,), 0, _storage(100_000))
    buffers = model_of(saved).state["_modules"]["map_layer0"].state["_buffers"]
    buffers.update({f"b{i}": once for i in range(200)})
    with pytest.raises(CheckpointError, match="refers to more numbers than it holds"):
        read_edm(save(saved))


def test_a_module_within_itself(save: Save) -> None:
    saved = content()
    inner = model_of(saved).state["_modules"]["map_layer0"]
    inner.state["_modules"]["again"] = nn.ModuleDict()
    inner.state["_modules"]["again"]._modules = {"x": inner.state["_modules"]["again"]}
    with pytest.raises(CheckpointError, match=r"map_layer0\.again\.x: is a module within itself"):
        read_edm(save(saved))


# ---------------------------------------------------------------------------- content that does not fit


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Change an entry: "ema.x" an attribute of the preconditioning, "model.x" of the network, "args.x" its argument."""
    owner, name = path.split(".", 1)

    def change(saved: dict[str, Any]) -> None:
        state = saved["ema"].state if owner == "ema" else model_of(saved).state
        (state["_init_kwargs"] if owner == "args" else state)[name] = value

    return change


def _kind(which: str, value: str) -> Callable[[dict[str, Any]], None]:
    def change(saved: dict[str, Any]) -> None:
        (saved["ema"] if which == "ema" else model_of(saved)).meta["class_name"] = value

    return change


def _layer(change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    return lambda saved: change(model_of(saved).state["_modules"]["map_layer0"].state["_parameters"])


CHANGES: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda saved: saved.pop("ema"), "no entry 'ema'"),
    (lambda saved: saved.update(ema={"model": 1}), "no entry 'ema'"),
    (lambda saved: saved["ema"].meta.pop("state"), "no object that EDM wrote"),
    (_kind("ema", "EDM2Precond"), "preconditioning 'EDM2Precond' is not known: EDMPrecond, VPPrecond"),
    (_kind("model", "VisionTransformer"), "network 'VisionTransformer' is not known: SongUNet, DhariwalUNet"),
    (_set("ema._modules", {}), "ema.model: is no object that EDM wrote"),
    (_set("ema.sigma_data", None), "sigma_data is missing"),
    (_set("ema.img_resolution", -8), "-8 is no value"),
    (_set("ema.img_resolution", 16), "img_resolution is not the 16"),
    (_set("ema.label_dim", 4), "label_dim is not the 4"),
    (_set("ema.use_fp16", 1), "1 is no value"),
    (_set("model._init_kwargs", None), "does not say with which arguments"),
    (_set("model._init_args", (8,)), "does not say with which arguments"),
    (_set("model._modules", None), "ema.model: has no _modules"),
    (_set("args.width", 3), "argument 'width' of DhariwalUNet is not known"),
    (_set("args.encoder_type", "skip"), "argument 'encoder_type' of DhariwalUNet is not known"),
    (_set("args.channels_per_head", 32), "argument 'channels_per_head' of DhariwalUNet is not known"),
    (_set("args.model_channels", "32"), "'32' is no value for argument model_channels"),
    (_set("args.model_channels", 64), "has shape"),
    (_set("args.model_channels", 1 << 40), "is no value for argument model_channels"),
    (_set("args.channel_mult", [1] * 40), "is no value for argument channel_mult"),
    (_set("args.channel_mult", []), "cannot be halved"),
    (_set("args.channel_mult", [[1], [2]]), "is no value for argument channel_mult"),
    (_set("args.num_blocks", 60_000), "too few for 60000 blocks"),
    (_set("args.num_blocks", 2), "is missing"),
    (_set("args.dropout", float("nan")), "nan is no value for argument dropout"),
    (_set("args.attn_resolutions", []), r"norm2\.bias: is none of a DhariwalUNet"),
    (_layer(lambda own: own.pop("bias")), r"tensor map_layer0\.bias: is missing"),
    (_layer(lambda own: own.update(bias=None)), r"tensor map_layer0\.bias: is missing"),
    (_layer(lambda own: own.update(more=torch.ones(1))), r"tensor map_layer0\.more: is none of a DhariwalUNet"),
    (_layer(lambda own: own.update(bias=torch.ones(5))), r"tensor map_layer0\.bias: has shape \(5,\), not \(128,\)"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "problem"), CHANGES)
def test_content_that_is_no_network_of_edm(change: Callable[[dict[str, Any]], Any], problem: str, save: Save) -> None:
    saved = content()
    change(saved)
    with pytest.raises(CheckpointError, match=rf"network\.pkl: .*{problem}"):
        read_edm(save(saved))


def test_constants_of_other_schedules_are_refused(save: Save) -> None:
    for precond, name, value in (("VPPrecond", "beta_d", 10.0), ("iDDPMPrecond", "M", 4000)):
        saved = content(precond=precond)
        saved["ema"].state[name] = value
        with pytest.raises(CheckpointError, match=f"{name} is {value}, and only"):
            read_edm(save(saved))


def test_another_resampling_filter_than_the_arguments_say(save: Save) -> None:
    saved = content("SongUNet")
    model_of(saved).state["_init_kwargs"]["resample_filter"] = [1, 1]
    with pytest.raises(CheckpointError, match="resample_filter: is not the filter of the network's arguments"):
        read_edm(save(saved))


def test_reading_leaves_nothing_behind(save: Save) -> None:
    """Nothing that the file names is imported, and two readings give equal but separate weights."""
    path = save(content())
    first, second = read_edm(path), read_edm(path)
    assert not {name.split(".")[0] for name in sys.modules} & {"torch_utils", "dnnlib", "training"}
    assert first is not None
    assert second is not None
    first.state["map_layer0.bias"].zero_()
    assert second.state["map_layer0.bias"].abs().sum() > 0
    assert replace(first, state={}) == replace(second, state={})
    assert copy.deepcopy(first).settings == second.settings
