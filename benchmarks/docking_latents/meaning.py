"""What pointer latents point at: atoms or residues, of which kinds, how near, and whether two of them touch."""

import json
import logging
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch.nn import functional

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
    ratio,
    shown,
)
from benchmarks.docking_latents.nodes import Nodes, nodes_of
from core.files import write_text
from core.pipeline import Pipeline
from core.plots import COLOURS, new_figure, save_figure
from domains.docking.complex import Complex
from domains.docking.evaluation import poses_of
from domains.docking.metrics.table import Interval

logger = logging.getLogger("disco")
CONTACT = (4.0, 5.0)  # Angstrom between heavy atoms
RARE = 5.0  # chosen nodes of a kind below which it is not shown


class Pointed(NamedTuple):
    """Where a source points in one complex: single [M, K] probabilities of every latent, pairs [n, N] probability that
    some two latents name a ligand atom and a residue, summed over the pairs of latents."""

    single: Float[np.ndarray, "m k"]
    pairs: Float[np.ndarray, "n r"]


def pointed(draws: Float[np.ndarray, "d m k"], atoms: int) -> Pointed:
    """From draws [D, M, K] that are equally likely, one-hot or distributions of independent latents."""
    count, pairs = draws.shape[1], np.zeros((atoms, draws.shape[2] - atoms))
    for one in range(count):
        for two in range(one + 1, count):
            joint = np.einsum("da,db->ab", draws[:, one], draws[:, two]) / len(draws)
            pairs += joint[:atoms, atoms:] + joint[atoms:, :atoms].T
    return Pointed(draws.mean(0), pairs)


@torch.no_grad()
def look(pipeline: Pipeline, each: Complex, draws: int, seed: int = 0) -> tuple[Nodes, dict[str, Pointed]]:
    """What the encoder (its exact distribution), the prior (``draws`` samples) and chance point at in one complex."""
    nodes, batch = nodes_of(each), poses_of(each, draws).to(pipeline.device)
    atoms = int(nodes.atom.sum())
    encoded = torch.softmax(encoding(pipeline, batch).masked.double(), -1).cpu().numpy()
    found = {"encoder": pointed(encoded, atoms)}
    if "prior" in pipeline.networks:
        latents = latents_of(pipeline, batch, "prior", seed)
        assert latents is not None
        samples = functional.one_hot(latents.codes, nodes.size).double().cpu().numpy()
        found["prior"] = pointed(samples, atoms)
    return nodes, {**found, "random node": pointed(np.full_like(encoded, 1 / nodes.size), atoms)}


def shares(nodes: Nodes, single: Float[np.ndarray, "m k"]) -> dict[str, Float[np.ndarray, "2 m"]]:
    """Figures of a complex per latent, each as a numerator and what it is a share or a mean of."""
    residue = ~nodes.atom
    weight = {"all": np.ones(len(single)), "atom": single @ nodes.atom, "residue": single @ residue}
    chosen: dict[str, tuple[np.ndarray, str]] = {
        "% ligand atoms": (nodes.atom, "all"),
        "residue's distance": (np.where(residue, nodes.distance, 0.0), "residue"),
        **{f"% residues < {near:g} A": (residue & (nodes.distance < near), "residue") for near in CONTACT},
        "atom's distance from centre": (np.where(nodes.atom, nodes.distance, 0.0), "atom"),
        "% atoms in rings": (nodes.ring, "atom"),
        "% atoms not carbon": (
            nodes.atom & np.array([kind.split()[0] != "C" for kind in nodes.kinds]), "atom"
        ),
    }  # fmt: skip
    return {name: np.stack([single @ value, weight[of]]) for name, (value, of) in chosen.items()}


def touching(nodes: Nodes, pairs: Float[np.ndarray, "n r"]) -> dict[str, Float[np.ndarray, " 2"]]:
    """Figures of atom-residue pairs of a complex, as numerators and denominators."""
    total = pairs.sum()
    values = {"distance in pair": nodes.reach} | {f"% pairs < {near:g} A": nodes.reach < near for near in CONTACT}
    return {name: np.array([(pairs * value).sum(), total]) for name, value in values.items()}


def paired(found: Mapping[str, Pointed]) -> dict[str, Float[np.ndarray, "n r"]]:
    """Pairs of every source, and the encoder's with one end drawn at random: what matching the other end adds."""
    pairs = {name: each.pairs for name, each in found.items()}
    own = pairs["encoder"]
    return pairs | {
        "encoder, atom at random": np.broadcast_to(own.sum(0) / len(own), own.shape),
        "encoder, residue at random": np.broadcast_to(own.sum(1)[:, None] / own.shape[1], own.shape),
    }


Looked = Sequence[tuple[Nodes, Mapping[str, Pointed]]]


def slot_figures(looked: Looked) -> dict[str, list[dict[str, Interval]]]:
    """Figures of every source per latent."""
    found: dict[str, list[dict[str, Interval]]] = {}
    for source in looked[0][1]:
        each = [shares(nodes, pointers[source].single) for nodes, pointers in looked]
        slots = range(len(looked[0][1][source].single))
        found[source] = [
            {name: ratio([one[name][0, m] for one in each], [one[name][1, m] for one in each]) for name in each[0]}
            for m in slots
        ]
    return found


def pair_figures(looked: Looked) -> dict[str, dict[str, Interval]]:
    """How often two latents are an atom and a residue, and how near the two then are, of every source."""
    every = [(nodes, paired(pointers)) for nodes, pointers in looked]
    found: dict[str, dict[str, Interval]] = {}
    for source in every[0][1]:
        each = [touching(nodes, pairs[source]) for nodes, pairs in every]
        found[source] = {"pairs atom-residue": interval([pairs[source].sum() for _, pairs in every])}
        for name in each[0]:
            found[source][name] = ratio([one[name][0] for one in each], [one[name][1] for one in each])
    return found


def kind_figures(looked: Looked, source: str, *, atoms: bool) -> dict[str, tuple[float, Interval, Interval, Interval]]:
    """Per kind of node: how many are chosen, its share of the chosen nodes, of all nodes, and their ratio.

    atoms: kinds of ligand atoms, else of residues; the ratio is 1 where choices do not care for the kind.
    """
    kinds = sorted({k for nodes, _ in looked for k, atom in zip(nodes.kinds, nodes.atom, strict=True) if atom == atoms})
    chosen, there = np.zeros((2, len(looked), len(kinds)))
    for row, (nodes, pointers) in enumerate(looked):
        weight = pointers[source].single.sum(0)
        for kind, atom, share in zip(nodes.kinds, nodes.atom, weight, strict=True):
            if atom == atoms:
                chosen[row, kinds.index(kind)] += share
                there[row, kinds.index(kind)] += 1
    total, everything = chosen.sum(1), there.sum(1)
    # Expected choices, were each complex's spread evenly over its nodes of this sort.
    expected = there * np.divide(total, everything, out=np.zeros(len(total)), where=everything > 0)[:, None]
    return {
        kind: (
            float(chosen[:, i].sum()), ratio(chosen[:, i], total), ratio(expected[:, i], total),
            ratio(chosen[:, i], expected[:, i]),
        )
        for i, kind in enumerate(kinds)
    }  # fmt: skip


def run(options: Namespace) -> str:
    """Measure, write meaning.json, meaning.md and meaning.png; returns the Markdown."""
    pipeline = Pipeline.from_pretrained(options.model, options.device, options.set)
    latent_space(pipeline, pointers=True)
    need(pipeline, "encoder")
    complexes, looked = pockets(pipeline, options), []
    for number, each in enumerate(complexes, start=1):
        looked.append(look(pipeline, each, options.draws, options.seed))
        logger.info("meaning: %d of %d complexes", number, len(complexes))
    slots, pairs, out = slot_figures(looked), pair_figures(looked), folder(options)
    kinds = {name: kind_figures(looked, "encoder", atoms=name == "atoms") for name in ("atoms", "residues")}
    said = f"{len(looked)} complexes; the encoder's exact probabilities, {options.draws} samples of the prior each"
    text = report(slots, pairs, kinds, said)
    record = {
        "complexes": [each.name for each in complexes], "latents": slots, "pairs": pairs, "kinds": kinds,
        "draws": options.draws,
    }  # fmt: skip
    write_text(out / "meaning.json", json.dumps(plain(record)))
    write_text(out / "meaning.md", text)
    draw(slots, kinds, options)
    return text


def _cell(name: str, found: Interval) -> str:
    return percent(found) if name.startswith("%") else shown(found, digits=2)


Kinds = Mapping[str, Mapping[str, tuple[float, Interval, Interval, Interval]]]


def report(
    slots: Mapping[str, Sequence[Mapping[str, Interval]]], pairs: Mapping[str, Mapping[str, Interval]], kinds: Kinds,
    said: str,
) -> str:  # fmt: skip
    """Figures per latent and source, of pairs, and of kinds of nodes."""
    names = list(slots["encoder"][0])
    rows = [
        [str(m + 1), source, *(_cell(name, each[m][name]) for name in names)]
        for m in range(len(slots["encoder"])) for source, each in slots.items()
    ]  # fmt: skip
    columns = list(pairs["encoder"])
    touch = [[source, *(_cell(name, each[name]) for name in columns)] for source, each in pairs.items()]
    parts = [
        f"## What the latents point at\n\n{said}; distances in Angstrom; [95 % interval over complexes]",
        markdown(["latent", "source", *names], rows),
        "Two latents that are a ligand atom and a residue:", markdown(["source", *columns], touch),
    ]  # fmt: skip
    for name, each in kinds.items():
        parts += [f"Kinds of {name} that the encoder chooses (all latents):", _kind_table(each)]
    return "\n\n".join(parts) + "\n"


def _kind_table(kinds: Mapping[str, tuple[float, Interval, Interval, Interval]]) -> str:
    common = sorted((item for item in kinds.items() if item[1][0] + _there(item[1]) >= RARE), key=_by_ratio)
    rows = [
        [kind, f"{chosen:.1f}", percent(share), percent(background), shown(times, digits=2)]
        for kind, (chosen, share, background, times) in common
    ]
    return markdown(["kind", "chosen", "share %", "of a random node %", "ratio"], rows)


def _there(found: tuple[float, Interval, Interval, Interval]) -> float:
    """Choices expected of a kind by its frequency alone."""
    chosen, _, _, times = found
    return chosen / times.value if times.value > 0 else 0.0


def _by_ratio(item: tuple[str, tuple[float, Interval, Interval, Interval]]) -> float:
    return -item[1][3].value


def draw(slots: Mapping[str, Sequence[Mapping[str, Interval]]], kinds: Kinds, options: Namespace) -> None:
    figure, (left, middle, right) = new_figure(columns=3)
    names = ["% ligand atoms", *(f"% residues < {near:g} A" for near in CONTACT), "% atoms in rings"]
    bars = [(source, m) for source in slots for m in range(len(slots[source]))]
    for number, (source, m) in enumerate(bars):
        values = [slots[source][m][name] for name in names]
        place = np.arange(len(names)) + 0.8 * (number / len(bars) - 0.4)
        colour = COLOURS[list(slots).index(source) % len(COLOURS)]
        heights, errors = _bars(values, 100)
        left.bar(place, heights, 0.8 / len(bars), yerr=errors, color=colour, label=source if m == 0 else None)
    left.set_xticks(range(len(names)), [name[2:] for name in names], rotation=20, fontsize=7)
    left.set(ylabel="%", title="per latent, in turn")
    left.legend(fontsize=7)
    for axis, (name, each) in zip((middle, right), kinds.items(), strict=True):
        common = sorted((item for item in each.items() if item[1][0] + _there(item[1]) >= RARE), key=_by_ratio)
        heights, errors = _bars([found[3] for _, found in common])
        axis.bar(range(len(common)), heights, yerr=errors, color=COLOURS[0])
        axis.set_xticks(range(len(common)), [kind for kind, _ in common], rotation=90, fontsize=7)
        axis.axhline(1, color="#555555", linewidth=0.8)
        axis.set(ylabel="chosen / expected", title=name)
    save_figure(figure, options.out / "meaning.png")


def _bars(values: Sequence[Interval], scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Heights and lengths of the error bars below and above."""
    low, middle, high = (scale * np.array([getattr(v, key) for v in values]) for key in ("low", "value", "high"))
    return middle, np.nan_to_num(np.stack([middle - low, high - middle]).clip(0))
