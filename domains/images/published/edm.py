"""The network in a pickle of EDM (Karras et al. 2022, https://github.com/NVlabs/edm): what it is, and its weights.

Such a pickle is a dictionary whose ``ema`` is the network. EDM's ``torch_utils.persistence`` writes every object as its
class name, its attributes and the source code of its class, and runs that source code on loading. Here the class names
and attributes are read as data, and the source code is not looked at: the networks of ``domains.images.networks`` take
its place.
"""

import mmap
import reprlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor

from core.errors import CheckpointError, ConfigError
from domains.images.networks.adm import ADMSettings, DhariwalUNet
from domains.images.networks.song import SongSettings, SongUNet
from domains.images.published.pickles import DICTIONARIES, Record, read_pickle
from domains.images.published.tensors import PARAMETER, STORAGE, TENSOR, decode_tensor

PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
CONTAINERS = frozenset({"torch.nn.modules.container.ModuleDict", "torch.nn.modules.container.ModuleList"})
_NUMPY = frozenset(
    f"{core}.multiarray.{f}" for core in ("numpy.core", "numpy._core") for f in ("scalar", "_reconstruct")
)
ALLOWED = CONTAINERS | DICTIONARIES | _NUMPY | {
    PERSISTENT, TENSOR, PARAMETER, STORAGE, "builtins.set", "numpy.dtype", "numpy.ndarray",
    "torch.Size", "torch.device", "torch.float16", "torch.float32", "torch.float64",
}  # fmt: skip

_COMMON = ("img_resolution", "img_channels", "label_dim", "use_fp16", "sigma_min", "sigma_max")
# Further arguments of the kinds of preconditioning, with the value that core.precondition has; None: any.
PRECONDITIONS: Mapping[str, Mapping[str, float | None]] = {
    "EDMPrecond": {"sigma_data": None},
    "VPPrecond": {"beta_d": 19.9, "beta_min": 0.1, "M": 1000},
    "VEPrecond": {},
    "iDDPMPrecond": {"C_1": 0.001, "C_2": 0.008, "M": 1000},
}
MODELS: Mapping[str, tuple[type[SongSettings | ADMSettings], type[SongUNet | DhariwalUNet]]] = {
    "SongUNet": (SongSettings, SongUNet),
    "DhariwalUNet": (ADMSettings, DhariwalUNet),
}
_SHARES = ("dropout", "label_dropout")
_LARGEST, _LONGEST = 1 << 16, 16  # of whole numbers, of lists of them


@dataclass(frozen=True)
class EDMNetwork:
    """A network of EDM.

    precondition: class of the preconditioning, one of ``PRECONDITIONS``; arguments: its own by EDM's names
    (img_resolution, img_channels, label_dim, use_fp16, sigma_min, sigma_max, those of ``PRECONDITIONS``); model_type:
    class of the network, one of ``MODELS``; settings: all of its arguments but one; label_dropout: that one, the share
    of samples that it was trained on without their class; state: float32 weights by the names of EDM's network, all of
    those and no others that the network with these settings has; notes: what a user should know.
    """

    precondition: str
    arguments: Mapping[str, Any]
    model_type: str
    settings: SongSettings | ADMSettings
    label_dropout: float
    state: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()

    def build(self) -> SongUNet | DhariwalUNet:
        """The network, with these weights and no latents, ready to evaluate."""
        network = MODELS[self.model_type][1](self.settings)  # type: ignore[arg-type]
        network.load_state_dict(dict(self.state))
        return network.eval()


def read_edm(source: Path) -> EDMNetwork | None:
    """The network in a pickle that EDM wrote; None where ``source`` is no such file (by its ending and first bytes).

    Nothing that the file holds is executed or imported. Raises CheckpointError for pickles that are damaged, refer to
    anything that EDM's networks do not need, or hold no network that is known here.
    """
    if not source.is_file():
        return None
    try:
        handle = source.open("rb")
    except OSError as error:
        raise CheckpointError(f"{source}: cannot be read: {error.strerror}") from error
    with handle:
        if source.suffix != ".pkl" and b"torch_utils.persistence" not in handle.read(256):
            return None
        size = source.stat().st_size
        try:
            if not size:
                raise CheckpointError("the file is empty")
            with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _network(read_pickle(content, ALLOWED), size)
        except CheckpointError as error:
            raise CheckpointError(f"{source}: {error}") from error
        except RecursionError as error:
            raise CheckpointError(f"{source}: is nested more deeply than any network") from error


def _network(content: Any, size: int) -> EDMNetwork:
    """size: of the file in bytes."""
    if not isinstance(content, dict) or not isinstance(content.get("ema"), Record):
        raise CheckpointError("holds no entry 'ema' with a network: no pickle of EDM's training")
    precondition, outer = _persistent(content["ema"], "ema")
    if precondition not in PRECONDITIONS:
        raise CheckpointError(
            f"preconditioning {reprlib.repr(precondition)} is not known: {', '.join(PRECONDITIONS)} are"
        )
    model_type, inner = _persistent(_entries(outer, "_modules", "ema").get("model"), "ema.model")
    if model_type not in MODELS:
        raise CheckpointError(f"network {reprlib.repr(model_type)} is not known: {', '.join(MODELS)} are")
    arguments = _precondition_arguments(precondition, outer)
    settings, label_dropout = _settings(model_type, inner, arguments)
    state: dict[str, Tensor] = {}
    elements = 0
    for name, tensor in _weights(inner, "", set()):
        state[name] = tensor
        elements += tensor.numel()
        if elements > size:  # the same bytes could be referred to any number of times
            raise CheckpointError("refers to more numbers than it holds")
    state = _fitting(model_type, settings, state)
    elements = sum(tensor.numel() for tensor in state.values())
    notes = [
        f"{model_type} under {precondition}, {elements:,} weights (the averaged ones)",
        "the source code inside the file was not run: the network of the same name here takes its place",
        "the published files are under CC BY-NC-SA 4.0, and what is converted from them stays under it",
    ]
    if arguments["use_fp16"]:
        notes.append("the network was trained in half precision; its weights are float32, and so it runs here")
    return EDMNetwork(precondition, arguments, model_type, settings, label_dropout, state, tuple(notes))


def _persistent(value: Any, where: str) -> tuple[str, Mapping[str, Any]]:
    """Class name and attributes of an object."""
    match value:
        case Record(name=name, args=({"type": "class", "class_name": str(kind), "state": dict(state)},)):
            if name == PERSISTENT:
                return kind, state
    raise CheckpointError(f"{where}: is no object that EDM wrote")


def _entries(state: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    """A dictionary among the attributes of a module, with texts as keys."""
    entries = state.get(name)
    if not isinstance(entries, dict) or not all(isinstance(key, str) for key in entries):
        raise CheckpointError(f"{where}: has no {name}")
    return entries


def _weights(state: Mapping[str, Any], prefix: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by name, below the module with these attributes. seen: modules met before."""
    where = prefix.removesuffix(".") or "ema.model"
    if id(state) in seen:
        raise CheckpointError(f"{where}: is a module within itself, or there twice")
    seen.add(id(state))
    passing = state.get("_non_persistent_buffers_set", ())
    if isinstance(passing, Record):  # how protocol 3 writes a set
        passing = passing.args[0] if passing.name == "builtins.set" and passing.args else ()
    for kind in ("_parameters", "_buffers"):
        for name, value in _entries(state, kind, where).items():
            if value is None or (kind == "_buffers" and isinstance(passing, list | set) and name in passing):
                continue
            try:
                tensor = decode_tensor(value)
            except CheckpointError as error:
                raise CheckpointError(f"tensor {prefix}{name}: {error}") from error
            if not torch.isfinite(tensor).all():
                raise CheckpointError(f"tensor {prefix}{name}: holds numbers that are not finite")
            yield prefix + name, tensor
    for name, value in _entries(state, "_modules", where).items():
        if value is None:
            continue
        if isinstance(value, Record) and value.name in CONTAINERS and isinstance(value.state, dict):
            inner: Mapping[str, Any] = value.state
        else:
            inner = _persistent(value, prefix + name)[1]
        yield from _weights(inner, f"{prefix}{name}.", seen)


def _precondition_arguments(kind: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """Read from the attributes, which have the defaults too."""
    found = {}
    for name in (*_COMMON, *PRECONDITIONS[kind]):
        value = _plain(state.get(name))
        if name == "use_fp16":
            fits = isinstance(value, bool)
        elif name in ("img_resolution", "img_channels", "label_dim"):
            fits = type(value) is int and 0 <= value <= _LARGEST - (name == "label_dim")
        else:
            fits = type(value) in (int, float) and value >= 0
        if not fits:
            raise CheckpointError(f"ema: {name} is missing, or {reprlib.repr(value)} is no value for it")
        found[name] = value
    for name, expected in PRECONDITIONS[kind].items():
        if expected is not None and found[name] != expected:
            raise CheckpointError(f"ema: {name} is {found[name]!r}, and only {expected!r} can be converted")
    return found


def _settings(
    kind: str, state: Mapping[str, Any], outer: Mapping[str, Any]
) -> tuple[SongSettings | ADMSettings, float]:
    """Settings and label_dropout; EDM's defaults, which the settings have, where a pickle does not give an argument.
    outer: the arguments of the preconditioning."""
    given = state.get("_init_kwargs")
    if state.get("_init_args") != () or not isinstance(given, dict):
        raise CheckpointError(f"ema.model: does not say with which arguments its {kind} was made")
    known = {field.name: field.default for field in fields(MODELS[kind][0])} | {"label_dropout": 0.0}
    hints = get_type_hints(MODELS[kind][0])
    known.pop("channels_per_head", None)  # no argument of EDM's
    found: dict[str, Any] = {}
    for name, value in given.items():
        plain = _plain(value)
        if name not in known:
            raise CheckpointError(f"ema.model: argument {reprlib.repr(name)} of {kind} is not known")
        if not _fits(name, plain, known[name], get_args(hints.get(name))):
            raise CheckpointError(f"ema.model: {reprlib.repr(plain)} is no value for argument {name}")
        found[name] = float(plain) if name in _SHARES else plain
    for name, of_outer in (("img_resolution",) * 2, ("in_channels", "img_channels"), ("label_dim",) * 2):
        if found.get(name, known[name]) != outer[of_outer]:
            raise CheckpointError(f"ema.model: {name} is not the {outer[of_outer]} of the preconditioning around it")
    label_dropout = found.pop("label_dropout", 0.0)
    try:
        return MODELS[kind][0](**found), label_dropout
    except ConfigError as error:
        raise CheckpointError(f"ema.model: {error}") from error


def _fitting(kind: str, settings: SongSettings | ADMSettings, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights without the resampling filters, which follow from the settings. Raises CheckpointError where they are
    not those of a network with these settings."""
    if settings.num_blocks > len(state):  # before as many are built
        raise CheckpointError(f"ema.model: has {len(state)} tensors, too few for {settings.num_blocks} blocks")
    try:
        with torch.device("meta"):
            expected = MODELS[kind][1](settings).state_dict()  # type: ignore[arg-type]
    except ConfigError as error:
        raise CheckpointError(f"ema.model: {error}") from error
    taps = torch.tensor(settings.resample_filter if isinstance(settings, SongSettings) else (1, 1), dtype=torch.float32)
    kernel = torch.outer(taps, taps)[None, None] / taps.sum() ** 2
    kept = {}
    for name, tensor in state.items():
        if not name.endswith(".resample_filter"):
            kept[name] = tensor
        elif tensor.shape != kernel.shape or not torch.allclose(tensor, kernel):
            raise CheckpointError(f"tensor {name}: is not the filter of the network's arguments")
    for name in sorted(expected.keys() ^ kept.keys()):
        problem = "is missing" if name in expected else f"is none of a {kind} with these arguments"
        raise CheckpointError(f"tensor {name}: {problem}")
    for name, tensor in kept.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(f"tensor {name}: has shape {tuple(tensor.shape)}, not {tuple(expected[name].shape)}")
    return kept


def _fits(name: str, value: Any, default: Any, choices: tuple[Any, ...]) -> bool:
    """Is ``value`` of the kind of ``default``, and of a sensible size? choices: of texts."""
    if isinstance(default, str):
        return isinstance(value, str) and value in choices
    if name in _SHARES:
        return type(value) in (int, float) and 0 <= value < 1
    if isinstance(default, tuple):
        fits = isinstance(value, tuple) and len(value) <= _LONGEST and all(type(n) is int for n in value)
        return fits and all(0 < n <= _LARGEST for n in value)
    return type(value) is int and 0 <= value <= _LARGEST


def _plain(value: Any) -> Any:
    """Lists as tuples, and numpy's numbers as Python's."""
    if isinstance(value, list | tuple):
        return tuple(_number(item) for item in value[: _LONGEST + 1])
    return _number(value)


def _number(value: Any) -> Any:
    match value:
        case Record(name=name, args=(Record(name="numpy.dtype", args=(str(code), *_)), bytes(data))):
            layout = {"f8": "<d", "f4": "<f", "i8": "<q", "i4": "<i", "b1": "<?"}.get(code)
            if name in _NUMPY and layout and struct.calcsize(layout) == len(data):
                return struct.unpack(layout, data)[0]
    return value
