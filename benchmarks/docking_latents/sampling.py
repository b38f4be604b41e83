"""Poses under other latents, prior temperatures, guidance, samplers and numbers of network calls.

Every setting is one file in OUT/sampling, so that a run that was killed goes on where it was.
"""

import json
import logging
import math
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.docking_latents.common import (
    excludes_zero,
    folder,
    interval,
    latents_of,
    markdown,
    plain,
    pockets,
    shown,
    sources,
)
from core.errors import DiscoError, RequestError
from core.files import write_text
from core.guidance import Guidance
from core.pipeline import Pipeline, Request
from core.plots import COLOURS, new_figure, save_figure
from core.prior import PriorOptions
from domains.docking.complex import Complex
from domains.docking.evaluation import judge, poses_of
from domains.docking.metrics.table import ComplexResult, Interval, summarise
from domains.docking.ranking.poses import weights_digest

logger = logging.getLogger("disco")
STUDIES = ("latents", "temperature", "guidance", "samplers")
TEMPERATURES, WEIGHTS, CALLS = (0.5, 1.0, 2.0), (0.0, 0.5, 1.0, 2.0), (5, 10, 20, 40)
SAMPLERS = (
    "euler", "heun", "euler-maruyama", "low-temperature", "low-temperature-disco", "low-temperature-diffdock-s",
)  # fmt: skip
MEASURES = ("rmsd", "centroid", "min_protein_distance", "min_self_distance")


@dataclass(frozen=True)
class Setting:
    """source: of latents; temperature: of the prior; guidance: on latents; sampler, steps: of the reverse process."""

    source: str
    temperature: float
    guidance: float
    sampler: str
    steps: int

    @property
    def name(self) -> str:
        return f"{self.source}-T{self.temperature:g}-w{self.guidance:g}-{self.sampler}-{self.steps}"


@dataclass(frozen=True)
class Docked:
    """A setting with what came of it: network calls per pose, CPU seconds per pose, one result per complex."""

    setting: Setting
    nfe: int
    cpu: float
    results: tuple[ComplexResult, ...]

    def success(self) -> np.ndarray:
        """[C] share of poses below 2 A, of the complexes by name."""
        ordered = sorted(self.results, key=lambda each: each.name)
        return np.array([0.0 if each.failure else float((each.rmsd < 2).mean()) for each in ordered])


def own_setting(pipeline: Pipeline, source: str) -> Setting:
    """The model's own settings."""
    own = pipeline.config.sampling
    return Setting(source, own.prior_temperature, own.guidance, own.sampler, pipeline.steps_of(Request()))


def settings_of(pipeline: Pipeline, studies: Sequence[str]) -> dict[str, list[Setting]]:
    """The settings of every study; each changes one thing of the model's own, which comes first."""
    there = sources(pipeline)
    base = own_setting(pipeline, "prior" if "prior" in there else there[0])
    guided = pipeline.space is not None and pipeline.config.latents.drop > 0
    every = {
        "latents": [replace(base, source=name) for name in there],
        "temperature": [replace(base, temperature=t) for t in TEMPERATURES if base.source == "prior"],
        "guidance": [
            replace(base, source=name, guidance=w)
            for name in there if name in ("prior", "encoder") for w in WEIGHTS if guided
        ],
        "samplers": [
            replace(base, sampler=name, steps=(calls + 1) // 2 if name == "heun" else calls)
            for name in dict.fromkeys((base.sampler, *SAMPLERS)) for calls in CALLS
        ],
    }  # fmt: skip
    return {name: list(dict.fromkeys([base, *every[name]])) for name in studies}


def request_of(pipeline: Pipeline, setting: Setting, seed: int) -> Request:
    own = pipeline.config.sampling
    options = own.options if setting.sampler == own.sampler else None
    guidance = Guidance(setting.guidance, 0.0, own.guidance_interval or (0.0, math.inf))
    return Request(
        seed=seed, steps=setting.steps, sampler=pipeline.sampler(setting.sampler, options), guidance=guidance
    )


def dock(pipeline: Pipeline, complexes: Sequence[Complex], setting: Setting, poses: int, seed: int) -> Docked:
    """All complexes under one setting; poses have the same random numbers under every setting. A complex that fails
    counts as a miss with its reason."""
    request = request_of(pipeline, setting, seed)
    options = PriorOptions(setting.temperature, pipeline.config.sampling.top_p)
    results, nfe, spent = [], 0, 0.0
    for each in complexes:
        start = time.process_time()
        try:
            batch = poses_of(each, poses).to(pipeline.device)
            latents = latents_of(pipeline, batch, setting.source, seed, options)
            state, nfe = pipeline.solve_in_pieces(batch, latents, request)
            spent += time.process_time() - start
            results.append(judge(state, batch, range(batch.size)))
        except (DiscoError, RuntimeError) as error:
            logger.warning("%s failed: %s", each.name, error)
            results.append(ComplexResult.failed(each.name, False, str(error)))
    return Docked(setting, nfe, spent / (poses * len(complexes)), tuple(results))


def kept(path: Path, about: Mapping[str, Any]) -> Docked | None:
    """What a file holds, None where there is none. Raises RequestError where it is of other weights or complexes."""
    if not path.exists():
        return None
    known = json.loads(path.read_text(encoding="utf-8"))
    if known["about"] != about:
        different = [key for key in about if known["about"].get(key) != about[key]]
        raise RequestError(f"{path}: is of another run ({', '.join(different)}): choose another --out or delete it")
    results = tuple(_result(each) for each in known["results"])
    return Docked(Setting(**known["setting"]), known["nfe"], known["cpu"], results)


def _result(known: Mapping[str, Any]) -> ComplexResult:
    if known["failure"]:
        return ComplexResult.failed(known["name"], False, known["failure"])
    rmsd, centroid, protein, itself = (np.array(known[key], dtype=float) for key in MEASURES)
    return ComplexResult(known["name"], rmsd, centroid, protein, itself, None, False)


def keep(path: Path, about: Mapping[str, Any], docked: Docked) -> None:
    results = [
        {"name": each.name, "failure": each.failure} | {key: plain(getattr(each, key)) for key in MEASURES}
        for each in docked.results
    ]
    record = {
        "about": about, "setting": asdict(docked.setting), "nfe": docked.nfe, "cpu": docked.cpu, "results": results,
    }  # fmt: skip
    write_text(path, json.dumps(record, allow_nan=False))


def run(options: Namespace) -> str:
    """Dock under every setting that has no file yet; write sampling.json, sampling.md and sampling.png."""
    pipeline = Pipeline.from_pretrained(options.model, options.device, options.set)
    complexes, studies = pockets(pipeline, options), settings_of(pipeline, options.studies)
    out = folder(options)
    (out / "sampling").mkdir(exist_ok=True)
    makers = {name: net for name, net in pipeline.networks.items() if name in ("denoiser", "encoder", "prior")}
    about = {
        "networks": weights_digest(makers), "complexes": [each.name for each in complexes], "poses": options.poses,
        "margin": options.margin, "seed": options.seed, "sampling": pipeline.config.sampling.model_dump(mode="json"),
    }  # fmt: skip
    found: dict[Setting, Docked] = {}
    for setting in dict.fromkeys(setting for each in studies.values() for setting in each):
        path = out / "sampling" / f"{setting.name}.json"
        docked = kept(path, about)
        if docked is None:
            docked = dock(pipeline, complexes, setting, options.poses, options.seed)
            keep(path, about, docked)
        found[setting] = docked
        logger.info("sampling: %s: %.1f %% < 2 A", setting.name, 100 * docked.success().mean())
    text = report(studies, found, f"{len(complexes)} complexes, {options.poses} poses each")
    rows = {setting.name: figures_of(docked, found[next(iter(found))]) for setting, docked in found.items()}
    write_text(out / "sampling.json", json.dumps(plain({"about": about, "rows": rows})))
    write_text(out / "sampling.md", text)
    draw(studies, found, out / "sampling.png")
    return text


def figures_of(docked: Docked, base: Docked) -> dict[str, Interval]:
    """Success in % of a random pose and of the best of all, median RMSD, and the success beyond that of the base."""
    summary = summarise(docked.results, resamples=2000)
    one, oracle = (summary.row("full", *of).figures for of in (("random", "1"), ("all", "oracle")))
    return {
        "% < 2 A": one["rmsd_below_2"], "oracle % < 2 A": oracle["rmsd_below_2"], "median A": one["rmsd_median"],
        "oracle median A": oracle["rmsd_median"], "more % < 2 A": interval(100 * (docked.success() - base.success())),
    }  # fmt: skip


def report(studies: Mapping[str, Sequence[Setting]], found: Mapping[Setting, Docked], said: str) -> str:
    """One table per study; differences are paired by complex, to its first row."""
    parts = [
        f"## Sampling\n\n{said}; the first row of each table is the model's own setting, from which each other row "
        "differs in one thing; * the 95 % interval over complexes of the paired difference excludes 0"
    ]
    for study, settings in studies.items():
        rows = []
        for setting in settings:
            docked = found[setting]
            each = figures_of(docked, found[settings[0]])
            star = " *" if excludes_zero(each["more % < 2 A"]) else ""
            failures = sum(result.failure is not None for result in docked.results)
            rows.append([
                setting.source, f"{setting.temperature:g}", f"{setting.guidance:g}", setting.sampler,
                str(setting.steps), str(docked.nfe), *(shown(value, digits=1) for value in each.values()),
                f"{docked.cpu:.3f}", str(failures),
            ])  # fmt: skip
            rows[-1][-3] += star
        header = ["latents", "T", "w", "sampler", "steps", "NFE", *each, "CPU s/pose", "failed"]
        parts += [f"### {study}", markdown(header, rows)]
    return "\n\n".join(parts) + "\n"


def draw(studies: Mapping[str, Sequence[Setting]], found: Mapping[Setting, Docked], path: Path) -> None:
    figure, axes = new_figure(columns=len(studies))
    for axis, (study, settings) in zip(axes, studies.items(), strict=True):
        lines: dict[str, list[tuple[float, Interval]]] = {}
        for setting in settings:
            line, x = {
                "latents": ("% < 2 A", float(settings.index(setting))),
                "temperature": (setting.source, setting.temperature),
                "guidance": (setting.source, setting.guidance),
                "samplers": (setting.sampler, float(found[setting].nfe)),
            }[study]
            lines.setdefault(line, []).append((x, interval(100 * found[setting].success())))
        for colour, (name, points) in zip((*COLOURS, *COLOURS), lines.items(), strict=False):
            points.sort(key=lambda point: point[0])
            middle = np.array([point.value for _, point in points])
            errors = np.abs(np.array([[p.low for _, p in points], [p.high for _, p in points]]) - middle)
            axis.errorbar([x for x, _ in points], middle, errors, color=colour, label=name, marker="o", capsize=2,
                          linestyle="none" if study == "latents" else "-")  # fmt: skip
        if study == "latents":
            axis.set_xticks(range(len(settings)), [setting.source for setting in settings])
        axis.set(xlabel="network calls" if study == "samplers" else study, ylabel="% < 2 A")
        axis.legend(fontsize=7)
    save_figure(figure, path)
