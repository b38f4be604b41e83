"""Samples by the thousand into one folder: written part by part, shared by processes, gone on with after a stop."""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.config_file import dump_config
from core.errors import RequestError
from core.files import write_text
from core.pipeline import Generated, Pipeline, Request
from core.training.distributed import World
from core.training.logs import ProgressBar
from core.types import Latents, Samples

RECORD, CONFIG = "samples.json", "config.yaml"
PARTS = "parts"  # folder of what was asked for and of one record per part, until all parts are there
ASKED = "asked.json"
PER_SAMPLE = ("ids", "labels", "codes")


@dataclass(frozen=True)
class Written:
    """What a folder of samples holds. files: as the domain wrote them; nfe: network evaluations per sample; new:
    whether anything had to be done."""

    files: tuple[Path, ...]
    nfe: int
    new: bool


def generate_into(
    out: Path, pipeline: Pipeline, request: Request, world: World, overwrite: bool = False, quiet: bool = False
) -> Written:
    """Generate the samples of a request and write them, ``samples.json`` and ``config.yaml`` into a folder.

    Domains that write parts (``Domain.writes_parts``) do so after every network batch: a call that was stopped goes on
    with the same request, in batches of any size, and the processes of ``world`` share what is left. Sample for sample
    it is what ``Pipeline.generate`` gives. Raises RequestError where the folder holds samples of another request,
    unless they are to be overwritten.
    """
    asked = _asked(pipeline, request)
    batch = pipeline.samples_of(request)
    latents = pipeline.latents_for(request, batch)
    if world.is_main:
        _claim(out, asked, dump_config(pipeline.config), overwrite)
    world.barrier()
    if (out / RECORD).exists():
        return _written(out, new=False)
    done = {number for part in _parts(out) for number in part["ids"]}
    left = [place for place, number in enumerate(batch.ids.tolist()) if number not in done]
    world.barrier()  # all have seen the same parts before one writes another
    size = request.batch_size if pipeline.domain.writes_parts else batch.size
    parts = [left[start : start + size] for start in range(0, len(left), size)][world.rank :: world.size]
    bar = ProgressBar("generating", sum(map(len, parts)) or 1, quiet=quiet or not world.is_main)
    made = 0
    for part in parts:
        _write_part(out, _solved(pipeline, request, batch, latents, torch.tensor(part)), pipeline)
        made += len(part)
        bar.update(made)
    bar.close()
    world.barrier()
    if world.is_main:
        _merge(out, asked, pipeline.domain.overview(out))
    world.barrier()
    return _written(out, new=True)


def _solved(pipeline: Pipeline, request: Request, batch: Samples, latents: Latents | None, places: Tensor) -> Generated:
    chosen = batch.select(places)
    given = None if latents is None else latents.select(places.to(latents.values.device))
    state, nfe = pipeline.solve_in_pieces(chosen, given, request)
    chosen = chosen.to(pipeline.device)
    return Generated(state, chosen, given, nfe, pipeline.domain.scores(pipeline.networks, state, chosen))


def _asked(pipeline: Pipeline, request: Request) -> dict[str, Any]:
    """What decides the samples, beside the configuration: as JSON gives it back."""
    own = pipeline.config.sampling
    codes = request.codes if request.codes is not None or request.prior is None else request.prior.fixed
    return {
        "seed": request.seed,
        "first": request.first,
        "count": request.count,
        "label": None if request.label is None else torch.as_tensor(request.label).tolist(),
        "given_codes": None if codes is None else torch.as_tensor(codes).tolist(),
        "share_latents": request.share_latents,
        "prior": None if request.prior is None else [request.prior.temperature, request.prior.top_p],
        "steps": pipeline.steps_of(request),
        "sampler": own.sampler if request.sampler is None else repr(request.sampler),
        "low_model": request.low_model.name if request.low_model else None,
        "given": {name: str(value) for name, value in request.spec.items()},
        "guidance": own.guidance if request.guidance is None else request.guidance.latents,
        "class_guidance": own.class_guidance if request.guidance is None else request.guidance.classes,
        "weights": dict(pipeline.manifest.weights),
    }


def _claim(out: Path, asked: Mapping[str, Any], config: str, overwrite: bool) -> None:
    """Make the folder this request's. Raises RequestError where it is another's."""
    earlier = next((path for path in (out / PARTS / ASKED, out / RECORD) if path.exists()), None)
    if earlier is not None and not overwrite:
        before = json.loads(earlier.read_text())
        differing = [name for name, value in asked.items() if before.get(name) != value]
        if (out / CONFIG).read_text() != config:
            differing.append("configuration")
        if differing:
            raise RequestError(
                f"{out} holds samples that were asked for otherwise (different: {', '.join(differing)}): choose "
                "another folder with -o, or replace them with --overwrite"
            )
        return
    if earlier is not None:
        _remove(out)
    write_text(out / CONFIG, config)
    write_text(out / PARTS / ASKED, json.dumps(asked))


def _remove(out: Path) -> None:
    """What an earlier call left, by its records."""
    whole = [json.loads((out / RECORD).read_text())] if (out / RECORD).exists() else []
    for name in {name for record in [*whole, *_parts(out)] for name in record.get("files", ())}:
        path = out / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (out / RECORD).unlink(missing_ok=True)
    shutil.rmtree(out / PARTS, ignore_errors=True)


def _write_part(out: Path, result: Generated, pipeline: Pipeline) -> None:
    files = pipeline.domain.write(result, out)
    discrete = result.latents is not None and pipeline.space is not None and pipeline.space.discrete
    ids = result.batch.ids.tolist()
    record = {
        "ids": ids,
        "labels": None if result.batch.label is None else result.batch.label.tolist(),
        "codes": result.latents.codes.tolist() if discrete and result.latents is not None else None,
        "scores": {name: values.tolist() for name, values in result.scores.items()},
        "nfe": result.nfe,
        "files": _names(out, files),
    }
    write_text(out / PARTS / f"{ids[0]}.json", json.dumps(record))


def _names(out: Path, files: Iterable[Path]) -> list[str]:
    return [path.relative_to(out).as_posix() for path in files]


def _parts(out: Path) -> list[dict[str, Any]]:
    """Records of the parts that are written, by number."""
    records = [json.loads(path.read_text()) for path in (out / PARTS).glob("*.json") if path.name != ASKED]
    return sorted(records, key=lambda record: record["ids"][0])


def _merge(out: Path, asked: Mapping[str, Any], pictures: list[Path]) -> None:
    """samples.json: what was asked for, and per sample its number, class, codes and scores, in order."""
    parts = _parts(out)
    order = torch.tensor([number for part in parts for number in part["ids"]]).argsort().tolist()

    def joined(values: Iterable[list[Any] | None]) -> list[Any] | None:
        everything = [value for part in values for value in part or ()]
        return [everything[place] for place in order] if everything else None

    record = {
        **asked,
        **{name: joined(part[name] for part in parts) for name in PER_SAMPLE},
        "scores": {name: joined(part["scores"][name] for part in parts) for name in parts[0]["scores"]},
        "nfe": parts[0]["nfe"],
        "files": sorted({*(name for part in parts for name in part["files"]), *_names(out, pictures)}),
    }
    write_text(out / RECORD, json.dumps(record))
    shutil.rmtree(out / PARTS)


def _written(out: Path, new: bool) -> Written:
    record = json.loads((out / RECORD).read_text())
    return Written(tuple(out / name for name in (*record["files"], RECORD)), record["nfe"], new)
