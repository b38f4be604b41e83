"""The authors' state dicts (github.com/gcorso/disco-diffdock, MIT) as our networks: names, layouts, sizes."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from core.errors import CheckpointError
from domains.docking.networks.backbone import AUTHORS, BackboneOptions
from domains.docking.networks.confidence import AUTHORS_CONFIDENCE, ROUTES, ConfidenceNet, ConfidenceOptions
from domains.docking.networks.convolution import TensorProductConv, e3nn_rows
from domains.docking.networks.denoiser import DockingDenoiser, ScoreScale
from domains.docking.networks.encoder import DockingEncoder
from domains.docking.networks.latents import LatentInput
from domains.docking.networks.prior import AUTHORS_PRIOR, DockingPrior

Kind = Literal["denoiser", "encoder", "prior", "confidence"]
SIGMA_DIM = 32  # of every released model; a state dict alone does not tell it from the language model's width
NULL = "lig_node_unconditional_embedding"  # there where latents were dropped in training
INNER = "pretrained_score_model."  # the denoiser inside a prior
CONVOLUTIONS = ("ligand", "ligand_from_receptor", "receptor", "receptor_from_ligand")  # edge groups 0..3
# Buffers of e3nn without learned values.
CONSTANT = ("tp.weight", "final_tp_tor.", "output_mask", "_w3j_", "num_batches_tracked")


class _Source:
    """A state dict that remembers which of its entries were read."""

    def __init__(self, state: Mapping[str, Tensor], prefix: str = "") -> None:
        self.state, self.prefix, self.read = dict(state), prefix, set[str]()

    def __call__(self, name: str) -> Tensor:
        key = self.prefix + name
        if key not in self.state:
            raise CheckpointError(f"the state dict has no entry '{key}': it is not the model that its other names say")
        self.read.add(key)
        return self.state[key]

    def has(self, name: str) -> bool:
        return self.prefix + name in self.state

    def count(self, pattern: Callable[[int], str]) -> int:
        """How many consecutive entries there are, counting from 0."""
        number = 0
        while self.has(pattern(number)):
            number += 1
        return number

    def under(self, prefix: str) -> "_Source":
        """Entries below a prefix; what is read there counts here too."""
        inner = _Source(self.state, self.prefix + prefix)
        inner.read = self.read
        return inner

    def left_over(self) -> list[str]:
        return [key for key in self.state if key not in self.read and not any(c in key for c in CONSTANT)]


Target = dict[str, Tensor]


def _copy(source: _Source, name: str, target: Target, to: str) -> None:
    """Weight and, where there is one, bias."""
    for end in ("weight", "bias"):
        if source.has(f"{name}.{end}"):
            target[f"{to}.{end}"] = source(f"{name}.{end}")


def _tables(source: _Source, name: str, target: Target, to: str) -> None:
    count = source.count(lambda i: f"{name}.atom_embedding_list.{i}.weight")
    tables = [source(f"{name}.atom_embedding_list.{i}.weight") for i in range(count)]
    target[f"{to}.weight"] = torch.cat(tables)


def _edge_mlp(source: _Source, name: str, target: Target, to: str) -> None:
    _copy(source, f"{name}.0", target, f"{to}.first")
    _copy(source, f"{name}.3", target, f"{to}.second")


def _norm(source: _Source, name: str, target: Target, to: str) -> None:
    for end in ("weight", "bias", "running_mean", "running_var"):
        target[f"{to}.{end}"] = source(f"{name}.{end}")


def _node_head(source: _Source, name: str, target: Target, to: str) -> None:
    for layer in (0, 4, 8):
        _copy(source, f"{name}.{layer}", target, f"{to}.{layer}")
    for layer in (1, 5):
        _norm(source, f"{name}.{layer}", target, f"{to}.{layer}")
        target[f"{to}.{layer}.num_batches_tracked"] = source(f"{name}.{layer}.num_batches_tracked")


def _convolution(source: _Source, name: str, second: int, target: Target, to: str, rows: Tensor | None = None) -> None:
    """fc layers 0 and ``second``; ``rows``: the released weight number of each of ours."""
    _copy(source, f"{name}.0", target, f"{to}.hidden")
    for end in ("weight", "bias"):
        values = source(f"{name}.{second}.{end}")
        target[f"{to}.weights.{end}"] = values if rows is None else values[rows]


def _backbone_options(source: _Source, latents: int, encoder: bool = False) -> BackboneOptions:
    scalars = source("lig_edge_embedding.3.weight").shape[0]
    vectors = source("conv_layers.0.batch_norm.weight").shape[0] - scalars
    residue = source("rec_node_embedding.additional_features_embedder.weight").shape[1]
    sigma = 0 if encoder else SIGMA_DIM
    reach = {name: float(source(f"{name}_distance_expansion.offset")[-1]) for name in ("lig", "rec", "cross")}
    return BackboneOptions(
        layers=source.count(lambda i: f"conv_layers.{i}.batch_norm.weight"),
        scalars=scalars,
        vectors=vectors,
        sigma_dim=sigma,
        distance_dim=len(source("lig_distance_expansion.offset")),
        latent_width=latents,
        language=residue - scalars - sigma - latents,
        ligand_radius=reach["lig"],
        residue_radius=reach["rec"],
        cross_radius=reach["cross"],
        cross_cutoff=reach["cross"] if encoder else None,
        dropped=source.has(NULL),
        quirks=AUTHORS,
    )


def _backbone(source: _Source, target: Target, to: str, layers: int) -> None:
    for name, ours in (("lig", "ligand"), ("rec", "receptor")):
        _tables(source, f"{name}_node_embedding", target, f"{to}{ours}_nodes.types")
        _copy(source, f"{name}_node_embedding.additional_features_embedder", target, f"{to}{ours}_nodes.mix")
    for name, ours in (("lig", "ligand"), ("rec", "receptor"), ("cross", "cross")):
        _edge_mlp(source, f"{name}_edge_embedding", target, f"{to}{ours}_edges.mlp")
        target[f"{to}{ours}_edges.smearing.offset"] = source(f"{name}_distance_expansion.offset")
    for layer in range(layers):
        for group, ours in enumerate(CONVOLUTIONS):
            _convolution(source, f"conv_layers.{layer}.fc.{group}", 4, target, f"{to}layers.{layer}.{ours}")
        _norm(source, f"conv_layers.{layer}.batch_norm", target, f"{to}layers.{layer}.norm")
    names = ("lig_node", "rec_node", "lig_edge", "rec_edge", "cross_edge")
    if source.has(NULL):
        target[f"{to}null"] = torch.cat([source(f"{name}_unconditional_embedding") for name in names])


def _heads(source: _Source, target: Target, options: BackboneOptions, model: DockingDenoiser) -> None:
    s = options.scalars
    target["rigid.smearing.offset"] = source("center_distance_expansion.offset")
    _edge_mlp(source, "center_edge_embedding", target, "rigid.edges")
    _convolution(source, "final_conv.fc", 4, target, "rigid.conv", e3nn_rows(model.rigid.conv.product))
    _norm(source, "final_conv.batch_norm", target, "rigid.norm")
    for name, ours in (("tr", "translation"), ("rot", "rotation")):
        for layer in (0, 3):
            _copy(source, f"{name}_final_layer.{layer}", target, f"rigid.{ours}.net.{layer}")
    target["torsion.smearing.offset"] = source("lig_distance_expansion.offset")
    _edge_mlp(source, "final_edge_embedding", target, "torsion.edges")
    _convolution(
        source, "tor_bond_conv.fc", 4, target, "torsion.conv", e3nn_rows(model.torsion.conv.product, (3, 0, 1, 2))
    )
    # Released input columns are [edge, atom, bond]; ours [edge, receiver (bond), source (atom)].
    first = target["torsion.conv.hidden.weight"].split(s, dim=1)
    target["torsion.conv.hidden.weight"] = torch.cat([first[0], first[2], first[1]], dim=1)
    # Released outputs are [pseudoscalars, scalars]; ours the other way round.
    _norm(source, "tor_bond_conv.batch_norm", target, "torsion.norm")
    for end in ("weight", "running_var"):
        target[f"torsion.norm.{end}"] = target[f"torsion.norm.{end}"].roll(s)
    target["torsion.final.0.weight"] = source("tor_final_layer.0.weight").roll(s, dims=1)
    target["torsion.final.3.weight"] = source("tor_final_layer.3.weight")


def _load(model: nn.Module, target: Target, source: _Source, expected: str) -> None:
    left = source.left_over()
    if left:
        raise CheckpointError(
            f"the state dict of the {expected} has {len(left)} entries that mean nothing here: {left[0]}"
        )
    own = model.state_dict()
    target = {**target, **{k: v for k, v in own.items() if k.startswith("scale.")}}  # of the noise, not of the weights
    wrong = [k for k, v in own.items() if k in target and target[k].shape != v.shape]
    missing = sorted(own.keys() ^ target.keys())
    if wrong or missing:
        name = (wrong or missing)[0]
        problem = f"of shape {tuple(target[name].shape)}, not {tuple(own[name].shape)}" if wrong else "on one side only"
        raise CheckpointError(f"the state dict of the {expected} does not fit: {name} is {problem}")
    model.to(next(iter(target.values())).dtype).load_state_dict(target)
    model.eval()


def latent_count(state: Mapping[str, Tensor], prefix: str = "") -> int:
    """Node-pointer latents of a denoiser: columns of its ligand nodes beyond embedding and noise level.

    Raises CheckpointError where there is no such denoiser.
    """
    weight = _Source(state, prefix)("lig_node_embedding.additional_features_embedder.weight")
    count = weight.shape[-1] - len(weight) - SIGMA_DIM
    if count < 0:
        raise CheckpointError(
            f"the state dict is of a denoiser whose noise level is not embedded in {SIGMA_DIM} numbers"
        )
    return count


def denoiser_from(state: Mapping[str, Tensor], scale: ScoreScale) -> DockingDenoiser:
    """Score network of the released layout, with (M = 2) or without latents.

    Raises CheckpointError for missing, surplus or misshapen entries.
    """
    source = _Source(state)
    count = latent_count(state)
    options = _backbone_options(source, count)
    model = DockingDenoiser(options, scale, LatentInput("pointer" if count else "none", count))
    target: Target = {}
    _backbone(source, target, "backbone.", options.layers)
    _heads(source, target, options, model)
    _load(model, target, source, "denoiser")
    return model


def encoder_from(state: Mapping[str, Tensor]) -> DockingEncoder:
    """Encoder of the released layout. Raises CheckpointError as ``denoiser_from``."""
    source = _Source(state)
    options = _backbone_options(source, 0, encoder=True)
    count = len(source("latent_s_predictor.8.bias"))
    model = DockingEncoder(options, LatentInput("pointer", count))
    target: Target = {}
    _backbone(source, target, "backbone.", options.layers)
    _node_head(source, "latent_s_predictor", target, "ligand_head")
    _node_head(source, "latent_r_predictor", target, "receptor_head")
    _load(model, target, source, "encoder")
    return model


def prior_from(state: Mapping[str, Tensor], scale: ScoreScale) -> DockingPrior:
    """Autoregressive prior of the released layout; the score heads that it carries along are not used.

    Raises CheckpointError as ``denoiser_from``.
    """
    outer = _Source(state)
    inner = outer.under(INNER)
    count = latent_count(state, INNER)
    options = _backbone_options(inner, count)
    model = DockingPrior(options, scale, LatentInput("pointer", count), AUTHORS_PRIOR)
    target: Target = {}
    _backbone(inner, target, "backbone.", options.layers)
    _node_head(outer, "latent_s_predictor", target, "ligand_head")
    _node_head(outer, "latent_r_predictor", target, "receptor_head")
    heads = ("center_", "final_", "tr_final", "rot_final", "tor_")
    outer.read.update(k for k in state if k.removeprefix(INNER).startswith(heads))
    _load(model, target, outer, "prior")
    return model


def confidence_from(state: Mapping[str, Tensor]) -> ConfidenceNet:
    """All-atom confidence model of the released layout. Raises CheckpointError as ``denoiser_from``."""
    source = _Source(state)
    scalars = source("lig_edge_embedding.3.weight").shape[0]
    has_language = source.has("rec_node_embedding.lm_embedding_layer.weight")
    language = source("rec_node_embedding.lm_embedding_layer.weight").shape[1] - scalars if has_language else 0
    routes = list(ROUTES)
    convolutions = source.count(lambda i: f"conv_layers.{i}.batch_norm.weight")
    options = ConfidenceOptions(
        layers=(convolutions - 3) // len(routes) + 1,
        scalars=scalars,
        vectors=source("conv_layers.0.batch_norm.weight").shape[0] - scalars,
        distance_dim=len(source("lig_distance_expansion.offset")),
        language=language,
        ligand_radius=float(source("lig_distance_expansion.offset")[-1]),
        residue_radius=float(source("rec_distance_expansion.offset")[-1]),
        cross_radius=float(source("cross_distance_expansion.offset")[-1]),
        outputs=len(source("confidence_predictor.8.bias")),
        quirks=AUTHORS_CONFIDENCE,
    )
    model, target = ConfidenceNet(options), Target()
    for name, ours in (("lig", "ligand"), ("rec", "receptor"), ("atom", "atom")):
        _tables(source, f"{name}_node_embedding", target, f"types.{ours}")
        _copy(source, f"{name}_node_embedding.linear", target, f"sigma.{ours}")
    if language:
        _copy(source, "rec_node_embedding.lm_embedding_layer", target, "language")
    for name, ours in (("lig", "ligand"), ("rec", "receptor"), ("cross", "cross")):
        target[f"smearing.{ours}.offset"] = source(f"{name}_distance_expansion.offset")
    edges = {"lig": "ligand", "rec": "receptor", "atom": "atom", "lr": "cross", "la": "contact", "ar": "member"}
    for name, ours in edges.items():
        _edge_mlp(source, f"{name}_edge_embedding", target, f"edges.{ours}")
    for number in range(convolutions):
        layer, route = number // len(routes), routes[number % len(routes)]
        if layer == options.layers - 1 and ROUTES[route][0] != "ligand":
            source.read.update(key for key in state if key.startswith(f"conv_layers.{number}."))  # never used there
            continue
        conv = model.get_submodule(f"layers.{layer}.{route}.conv")
        assert isinstance(conv, TensorProductConv)
        to = f"layers.{layer}.{route}"
        _convolution(source, f"conv_layers.{number}.fc", 3, target, f"{to}.conv", e3nn_rows(conv.product))
        _norm(source, f"conv_layers.{number}.batch_norm", target, f"{to}.norm")
    _node_head(source, "confidence_predictor", target, "predictor")
    target["calibration"] = model.calibration  # theirs has none
    _load(model, target, source, "confidence model")
    return model


def recognise(state: Mapping[str, Tensor]) -> set[Kind]:
    """Which networks a state dict holds, by its names. Empty where it is none of the authors'."""
    names = set(state)
    found: set[Kind] = set()
    if any(n.startswith(INNER) for n in names):
        return {"prior"}
    if any(n.startswith("lr_edge_embedding.") for n in names):
        return {"confidence"}
    if names & {"score_model.tr_final_layer.0.weight", "tr_final_layer.0.weight"}:
        found.add("denoiser")
    if names & {"encoder.latent_s_predictor.0.weight", "latent_s_predictor.0.weight"}:
        found.add("encoder")
    return found


def part_of(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Entries under a prefix, without it; the whole state dict where no entry has it."""
    inside = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return inside or dict(state)
