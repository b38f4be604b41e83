"""How well the prior foresees the encoder's choices, slot by slot, against chance and against the kinds of nodes."""

import json
import logging
import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from benchmarks.docking_latents.common import (
    encoding,
    folder,
    interval,
    latent_space,
    latents_of,
    markdown,
    need,
    percent,
    plain,
    pockets,
    shown,
)
from benchmarks.docking_latents.nodes import Nodes, nodes_of
from core.files import write_text
from core.pipeline import Pipeline
from core.plots import COLOURS, new_figure, save_figure
from domains.docking.complex import Complex
from domains.docking.evaluation import poses_of

logger = logging.getLogger("disco")
TOP = (1, 3, 5)
METHODS = ("prior", "kinds", "chance")


class Seen(NamedTuple):
    """One complex. codes: [D, M] of the encoder; chosen: [M, K] its probabilities; foreseen: [D, M, K] the prior's
    log-probabilities, teacher-forced."""

    nodes: Nodes
    codes: Int[np.ndarray, "d m"]
    chosen: Float[np.ndarray, "m k"]
    foreseen: Float[np.ndarray, "d m k"]


@torch.no_grad()
def see(pipeline: Pipeline, each: Complex, draws: int, seed: int = 0) -> Seen:
    batch = poses_of(each, draws).to(pipeline.device)
    latents = latents_of(pipeline, batch, "encoder", seed)
    assert latents is not None
    chosen = torch.softmax(encoding(pipeline, batch).masked[0].double(), -1)
    foreseen = torch.log_softmax(pipeline.networks["prior"](batch, latents.codes).masked.double(), -1)
    return Seen(nodes_of(each), latents.codes.cpu().numpy(), chosen.cpu().numpy(), foreseen.cpu().numpy())


def hits(scores: Float[np.ndarray, "*d k"], target: Int[np.ndarray, "*d"], top: int) -> Float[np.ndarray, "*d"]:
    """Chance that the target is among the ``top`` best scores, where ties are broken at random."""
    own = np.take_along_axis(scores, target[..., None], -1)
    above, level = (scores > own).sum(-1), (scores == own).sum(-1)
    return np.clip((top - above) / level, 0, 1)


def kind_rates(seen: Sequence[Seen], without: int, slot: int) -> dict[str, float]:
    """How often a node of each kind is chosen, in all complexes but one: choices per node, shrunk to the overall rate
    by one node's worth of it. The key ``""`` is for kinds that are nowhere else."""
    chosen: dict[str, float] = {}
    nodes: dict[str, int] = {}
    for number, each in enumerate(seen):
        if number != without:
            for kind, share in zip(each.nodes.kinds, each.chosen[slot], strict=True):
                chosen[kind] = chosen.get(kind, 0.0) + float(share)
                nodes[kind] = nodes.get(kind, 0) + 1
    overall = sum(chosen.values()) / max(1, sum(nodes.values())) or 1.0
    return {"": overall} | {kind: (chosen[kind] + overall) / (nodes[kind] + 1) for kind in nodes}


def by_kinds(seen: Sequence[Seen], which: int) -> Float[np.ndarray, "m k"]:
    """Log-probabilities of a complex's nodes by their kinds alone, learned from the other complexes."""
    rows = []
    for slot in range(len(seen[which].chosen)):
        rates = kind_rates(seen, which, slot)
        weight = np.array([rates.get(kind, rates[""]) for kind in seen[which].nodes.kinds])
        rows.append(np.log(weight / weight.sum()))
    return np.stack(rows)


def figures(seen: Sequence[Seen]) -> dict[str, dict[str, Float[np.ndarray, "c m"]]]:
    """Per method: top-k accuracies and mean log-likelihood of the encoder's codes [nats], per complex and slot."""
    found: dict[str, dict[str, list[np.ndarray]]] = {method: {} for method in METHODS}
    for number, each in enumerate(seen):
        flat = np.full(each.chosen.shape, -math.log(each.nodes.size))
        tables = {"prior": each.foreseen, "kinds": by_kinds(seen, number)[None], "chance": flat[None]}
        for method, table in tables.items():
            scores = np.broadcast_to(table, each.foreseen.shape)
            rows = {f"top-{k}": hits(scores, each.codes, k).mean(0) for k in TOP}
            rows["log-likelihood"] = np.take_along_axis(scores, each.codes[..., None], -1)[..., 0].mean(0)
            for key, value in rows.items():
                found[method].setdefault(key, []).append(value)
    return {method: {key: np.stack(rows) for key, rows in each.items()} for method, each in found.items()}


def entropies(seen: Sequence[Seen]) -> Float[np.ndarray, "c m"]:
    """Entropy of the encoder's choice among the nodes of each complex, nats."""
    return np.stack([_entropy(each.chosen) for each in seen])


def kind_entropies(seen: Sequence[Seen]) -> tuple[Float[np.ndarray, " m"], float]:
    """Entropy of the kind of the chosen node over all complexes, per slot, and of a random node's, nats."""
    kinds = sorted({kind for each in seen for kind in each.nodes.kinds})
    place = {kind: number for number, kind in enumerate(kinds)}
    chosen, there = np.zeros((len(seen[0].chosen), len(kinds))), np.zeros(len(kinds))
    for each in seen:
        column = [place[kind] for kind in each.nodes.kinds]
        np.add.at(there, column, 1 / each.nodes.size)
        np.add.at(chosen.T, column, each.chosen.T)
    return _entropy(chosen / len(seen)), float(_entropy(there / len(seen)))


def _entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(np.where(p > 0, p, 1.0))).sum(-1)


def run(options: Namespace) -> str:
    """Measure, write prior.json, prior.md and prior.png; returns the Markdown."""
    pipeline = Pipeline.from_pretrained(options.model, options.device, options.set)
    latent_space(pipeline, pointers=True)
    need(pipeline, "encoder", "prior")
    complexes, seen = pockets(pipeline, options), []
    for number, each in enumerate(complexes, start=1):
        seen.append(see(pipeline, each, options.draws, options.seed))
        logger.info("prior: %d of %d complexes", number, len(complexes))
    found, out = figures(seen), folder(options)
    text = report(seen, found, f"{len(seen)} complexes, {options.draws} draws of the encoder each")
    record = {
        "complexes": [each.name for each in complexes], "nodes": [each.nodes.size for each in seen],
        "draws": options.draws, "figures": found, "encoder entropy": entropies(seen),
        "kind entropy": kind_entropies(seen),
    }  # fmt: skip
    write_text(out / "prior.json", json.dumps(plain(record)))
    write_text(out / "prior.md", text)
    draw(found, options)
    return text


def report(seen: Sequence[Seen], found: Mapping[str, Mapping[str, np.ndarray]], said: str) -> str:
    """Accuracies in %, log-likelihoods and entropies in nats, per slot."""
    own, (kinds, background) = entropies(seen), kind_entropies(seen)
    rows, gains = [], []
    for slot in range(own.shape[1]):
        for method in METHODS:
            each = {key: value[:, slot] for key, value in found[method].items()}
            tops = [percent(interval(each[f"top-{k}"])) for k in TOP]
            rows.append([str(slot + 1), method, *tops, shown(interval(each["log-likelihood"]))])
        likelihood = {method: found[method]["log-likelihood"][:, slot] for method in METHODS}
        gains.append([
            str(slot + 1), shown(interval(likelihood["prior"] - likelihood["chance"])),
            shown(interval(likelihood["prior"] - likelihood["kinds"])), shown(interval(own[:, slot])),
            shown(interval(-likelihood["prior"] - own[:, slot])), f"{kinds[slot]:.3f} ({background:.3f})",
        ])  # fmt: skip
    nodes = np.mean([each.nodes.size for each in seen])
    parts = [
        f"## Prior\n\n{said}, {nodes:.0f} nodes on average; [95 % interval over complexes]",
        markdown(["latent", "by", *(f"top-{k} %" for k in TOP), "log-likelihood"], rows),
        "In nats; the last column: of the chosen node's kind over all complexes (of a random node's):",
        markdown(
            ["latent", "prior - chance", "prior - kinds", "encoder's entropy", "KL(encoder, prior)", "kind entropy"],
            gains,
        ),
    ]
    return "\n\n".join(parts) + "\n"


def draw(found: Mapping[str, Mapping[str, np.ndarray]], options: Namespace) -> None:
    slots = found["prior"]["top-1"].shape[1]
    figure, axes = new_figure(columns=slots)
    for slot, axis in enumerate(axes):
        for number, (method, colour) in enumerate(zip(METHODS, COLOURS, strict=False)):
            bars = [interval(100 * found[method][f"top-{k}"][:, slot]) for k in TOP]
            middle = np.array([bar.value for bar in bars])
            errors = np.abs(np.array([[bar.low for bar in bars], [bar.high for bar in bars]]) - middle)
            axis.bar(np.arange(len(TOP)) + 0.25 * (number - 1), middle, 0.25, yerr=errors, color=colour, label=method)
        axis.set_xticks(range(len(TOP)), [f"top-{k}" for k in TOP])
        axis.set(ylabel="accuracy, %", title=f"latent {slot + 1}")
        axis.legend()
    save_figure(figure, options.out / "prior.png")
