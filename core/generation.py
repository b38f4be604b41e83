"""Samples by the thousand into one folder: written part by part, shared by processes, gone on with after a stop."""

import contextlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.config_file import dump_config
from core.errors import DataError, RequestError
from core.files import LOCK, locked, write_text
from core.interfaces import Domain
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
    """What a folder of samples holds. files: the record, pictures and folders of samples; nfe: network evaluations per
    sample; new: whether anything had to be done."""

    files: tuple[Path, ...]
    nfe: int
    new: bool


def generate_into(
    out: Path, pipeline: Pipeline, request: Request, world: World, overwrite: bool = False, quiet: bool = False
) -> Written:
    """Generate the samples of a request and write them, ``samples.json`` and ``config.yaml`` into a folder.

    Where a domain writes one file per sample (``Domain.file_of``), it does so after every network batch: a call that
    was stopped goes on with the same request, in batches of any size, and the processes of ``world`` share what is
    left. Sample for sample it is what ``Pipeline.generate`` gives. Raises RequestError for what the model cannot do,
    where the folder holds samples of another request (unless they are to be overwritten), or another call is filling
    it; DataError where its records are damaged.
    """
    job = _Job(out, pipeline, request, pipeline.samples_of(request))
    if world.size > 1 and not job.in_parts:
        raise RequestError(f"'{pipeline.domain.name}' writes its samples together: make them in one process")
    latents = job.checked()
    with contextlib.ExitStack() as held:
        refusal: Exception | None = None
        if world.is_main:
            try:
                held.enter_context(_held(out))
                job.claim(overwrite)
            except Exception as error:
                refusal = error
        if world.any(refusal is not None):
            raise refusal or RequestError("another process refused: see what it said")
        if (out / RECORD).exists():
            return job.written(new=False)
        left = job.left()
        world.barrier()  # all have seen the same parts before one writes another
        size = request.batch_size if job.in_parts else job.batch.size
        job.make(shares(left, size, world.size)[world.rank], latents, quiet or not world.is_main)
        world.barrier()
        if world.is_main:
            job.merge()
        world.barrier()
        return job.written(new=True)


def shares(left: Sequence[int], size: int, processes: int) -> list[list[list[int]]]:
    """Parts of at most ``size`` places for every process, dealt in turns."""
    parts = [list(left[start : start + size]) for start in range(0, len(left), size)]
    return [parts[rank::processes] for rank in range(processes)]


@contextlib.contextmanager
def _held(out: Path) -> Iterator[None]:
    """Keep other calls away; a folder of parts with nothing in it is taken away again."""
    parts = out / PARTS
    with locked(parts):
        try:
            yield
        finally:
            if parts.exists() and {path.name for path in parts.iterdir()} <= {LOCK}:
                shutil.rmtree(parts)


@dataclass(frozen=True)
class _Job:
    """One request, and the folder that it goes into."""

    out: Path
    pipeline: Pipeline
    request: Request
    batch: Samples

    @property
    def domain(self) -> Domain:
        return self.pipeline.domain

    @property
    def in_parts(self) -> bool:
        return self.domain.file_of(self.out, 0) is not None

    @property
    def latents_together(self) -> bool:
        """Whether latents make sense for all samples at once only."""
        prior = self.request.prior
        return self.request.share_latents or self.request.codes is not None or (prior and prior.fixed) is not None

    def checked(self) -> Latents | None:
        """Latents of all samples, where they are drawn together. Raises RequestError for what the model cannot do,
        before anything is written."""
        first = self.batch.select(slice(0, 1))
        latents = self.pipeline.latents_for(self.request, self.batch if self.latents_together else first)
        self.pipeline.reverse_process(first, None if latents is None else latents.select(slice(0, 1)), self.request)
        return latents if self.latents_together else None

    def claim(self, overwrite: bool) -> None:
        """Make the folder this request's. Raises RequestError where it is another's, DataError for damaged records."""
        if any((self.out / name).exists() for name in ("model", "state")):
            raise RequestError(f"{self.out} is the folder of a run: choose another with -o")
        asked, out = self.asked(), self.out
        known = next((path for path in (out / PARTS / ASKED, out / RECORD) if path.exists()), None)
        before = None if known is None else _read(known)
        if before is not None and before.get("asked") != asked:
            if not overwrite and (known == out / RECORD or self.parts()):
                earlier = before.get("asked") or {}
                names = [name for name, value in asked.items() if earlier.get(name) != value]
                differing = f"different: {', '.join(names)}" if earlier else "by an earlier version"
                raise RequestError(
                    f"{out} holds samples that were asked for otherwise ({differing}): choose another folder with -o, "
                    "or replace them with --overwrite"
                )
            self.remove(before)
        elif before is None or overwrite:
            self.remove(before or {})
        for folder in (out / PARTS, *([self.file_of(0).parent] if self.in_parts else [])):
            for left_over in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
                left_over.unlink(missing_ok=True)
        if not (out / RECORD).exists():
            write_text(out / CONFIG, dump_config(self.pipeline.config))
            write_text(out / PARTS / ASKED, json.dumps({"asked": asked}))

    def asked(self) -> dict[str, Any]:
        """What decides the samples, as JSON gives it back."""
        request, pipeline = self.request, self.pipeline
        own, guidance, low = pipeline.config.sampling, request.guidance, request.low_model
        codes = request.codes if request.codes is not None or request.prior is None else request.prior.fixed
        return {
            "seed": request.seed,
            "first": request.first,
            "count": request.count,
            "label": None if request.label is None else torch.as_tensor(request.label).tolist(),
            "given": {name: str(value) for name, value in request.spec.items()},
            "given_codes": None if codes is None else torch.as_tensor(codes).tolist(),
            "share_latents": request.share_latents,
            "prior": None if request.prior is None else repr(replace(request.prior, fixed=None)),
            "steps": pipeline.steps_of(request),
            "sampler": repr(pipeline.chosen_sampler(request)),
            "guidance": own.guidance if guidance is None else guidance.latents,
            "class_guidance": own.class_guidance if guidance is None else guidance.classes,
            "guidance_interval": None if guidance is None else [x if x < math.inf else None for x in guidance.interval],
            "precision": str(pipeline.amp_dtype or "fp32"),
            "weights": dict(pipeline.manifest.weights),
            "configuration": pipeline.config.model_dump(mode="json"),
            "low_weights": dict(low.manifest.weights) if low else None,
            "low_configuration": low.config.model_dump(mode="json") if low else None,
        }

    def remove(self, record: Mapping[str, Any]) -> None:
        """What an earlier call left, by its record: its files of single samples, and the records themselves."""
        parts, asked = self.parts(), record.get("asked") or {}
        ids = {*record.get("ids", ()), *range(asked.get("first", 0), asked.get("first", 0) + asked.get("count", 0))}
        ids.update(number for part in parts for number in part["ids"])
        (self.out / RECORD).unlink(missing_ok=True)
        for number in ids if self.in_parts else ():
            self.file_of(number).unlink(missing_ok=True)
        for path in (self.out / PARTS).glob("*.json"):
            path.unlink()

    def file_of(self, number: int) -> Path:
        path = self.domain.file_of(self.out, number)
        assert path is not None
        return path

    def parts(self) -> list[dict[str, Any]]:
        """Records of the parts that are written."""
        return [_read(path) for path in sorted((self.out / PARTS).glob("[0-9]*.json"))]

    def left(self) -> list[int]:
        """Places in the batch of what is not yet there: of parts that lack a file, all."""
        whole = [
            part for part in self.parts() if not self.in_parts or all(self.file_of(n).exists() for n in part["ids"])
        ]
        done = {number for part in whole for number in part["ids"]}
        return [place for place, number in enumerate(self.batch.ids.tolist()) if number not in done]

    def make(self, parts: Sequence[Sequence[int]], latents: Latents | None, quiet: bool) -> None:
        """Generate and write parts, given as places in the batch. latents: of all samples, None to draw them part by
        part."""
        bar, made = ProgressBar("generating", sum(map(len, parts)) or 1, quiet=quiet), 0
        for part in parts:
            self._write(self._solved(torch.tensor(part), latents))
            made += len(part)
            bar.update(made)
        bar.close()

    def _solved(self, places: Tensor, together: Latents | None) -> Generated:
        pipeline, chosen = self.pipeline, self.batch.select(places)
        if together is None:
            latents = pipeline.latents_for(self.request, chosen)
        else:
            latents = together.select(places.to(together.values.device))
        return pipeline.generate_under(chosen, latents, self.request)

    def _write(self, result: Generated) -> None:
        files, space = self.domain.write(result, self.out), self.pipeline.space
        codes = result.latents.codes.tolist() if result.latents and space and space.discrete else None
        ids = result.batch.ids.tolist()
        record = {
            "ids": ids,
            "labels": None if result.batch.label is None else result.batch.label.tolist(),
            "codes": codes,
            "scores": {name: values.tolist() for name, values in result.scores.items()},
            "nfe": result.nfe,
            "files": [path.relative_to(self.out).as_posix() for path in files],
        }
        write_text(self.out / PARTS / f"{ids[0]}.json", json.dumps(record))

    def merge(self) -> None:
        """samples.json: what was asked for, and per sample its number, class, codes and scores, in order."""
        parts, ids = self.parts(), self.batch.ids.tolist()
        where = {number: (part, place) for part in parts for place, number in enumerate(part["ids"])}

        def joined(values: str, name: str = "") -> list[Any] | None:
            def at(part: Mapping[str, Any], place: int) -> Any:
                return (part[values][name] if name else part[values])[place]

            return None if parts[0][values] is None else [at(*where[number]) for number in ids]

        pictures = [path.relative_to(self.out).as_posix() for path in self.domain.overview(self.out, ids)]
        asked = self.asked()
        record = {
            **{name: asked[name] for name in ("seed", "steps", "sampler", "guidance", "class_guidance", "given")},
            "low_model": self.request.low_model.name if self.request.low_model else None,
            **{name: joined(name) for name in PER_SAMPLE},
            "scores": {name: joined("scores", name) for name in parts[0]["scores"]},
            "nfe": parts[0]["nfe"],
            "files": sorted({*(name for part in parts for name in part["files"]), *pictures}),
            "asked": asked,
        }
        write_text(self.out / RECORD, json.dumps(record))
        shutil.rmtree(self.out / PARTS)

    def written(self, new: bool) -> Written:
        """Raises DataError where files of samples are gone."""
        record = _read(self.out / RECORD)
        gone = [number for number in record["ids"] if self.in_parts and not self.file_of(number).exists()]
        if gone:
            raise DataError(
                f"{self.out}: {len(gone)} files of samples that {RECORD} names are gone, the first of number "
                f"{gone[0]}: make all anew with --overwrite"
            )
        return Written((*(self.out / name for name in record["files"]), self.out / RECORD), record["nfe"], new)


def _read(path: Path) -> dict[str, Any]:
    """A record. Raises DataError where it is none."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged ({error}): remove the folder, or choose another with -o") from error
    if not isinstance(record, dict):
        raise DataError(f"{path}: damaged, no record of samples: remove the folder, or choose another with -o")
    return record
