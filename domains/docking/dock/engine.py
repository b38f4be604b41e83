"""From complexes to poses: samples of different complexes share network calls, and nobody's failure is another's."""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64

from core.errors import DiscoError, RequestError
from core.guidance import Guidance
from core.pipeline import Pipeline, Request
from core.rng import derive_key
from core.samplers import Callback, Step
from core.types import Latents
from domains.docking.batch import DockingBatch
from domains.docking.complex import Complex
from domains.docking.dock.settings import DockSettings
from domains.docking.evaluation import sample_numbers
from domains.docking.pose import Pose
from domains.docking.regions import DockedSite, Region, ranked_together, regions_of, whole_code
from domains.docking.write import pose_positions

logger = logging.getLogger("disco")
ON_CPU = 64  # poses per call: the networks take them one after the other there
PAIR_BYTES = 12_000  # on a GPU, per pair of a ligand atom and a residue, at full width: an estimate, see ``dock``
GPU_SHARE = 0.5  # of the free memory
# What a complex may provoke. Not every Exception: one that a callback raises to stop the run must come through.
ERRORS = (DiscoError, RuntimeError, ArithmeticError, AssertionError, LookupError, MemoryError, TypeError, ValueError)


@dataclass(frozen=True, eq=False)
class Docked:
    """The poses of one complex as the model gives them, in the order of their numbers.

    positions: [P, n, 3] Angstrom in the frame of the protein's file; codes: [P, M] of the latents, None without;
    confidence: [P], None in a model without; frames: [P, steps + 1, n, 3], only where asked for; seconds: its share;
    sites: the binding site that each pose was docked into, None where none was looked for.
    """

    complex: Complex
    positions: Float64[np.ndarray, "p n 3"]
    codes: np.ndarray | None
    confidence: np.ndarray | None
    frames: Float64[np.ndarray, "p s n 3"] | None
    seconds: float
    sites: tuple[DockedSite, ...] | None = None


@dataclass(frozen=True)
class _Piece:
    """Some samples of one network call: numbers ``first`` to ``last`` - 1 of a complex."""

    complex: Complex
    first: int
    last: int


class Engine:
    """A model that docks, under settings."""

    def __init__(self, pipeline: Pipeline, settings: DockSettings) -> None:
        """Raises RequestError or ConfigError for what the model cannot do."""
        self.pipeline, self.settings = pipeline, settings
        latents = pipeline.config.latents
        if settings.guidance and (latents.kind == "none" or latents.drop == 0):
            raise RequestError("guidance on latents was asked for, and this model was not trained for it")
        if pipeline.space is not None and "prior" not in pipeline.networks:
            raise RequestError("this model has no prior yet, so nothing can be docked: disco train --stage prior")
        interval = pipeline.config.sampling.guidance_interval or (0.0, math.inf)
        self.request = Request(
            seed=settings.seed,
            steps=settings.steps,
            sampler=None if settings.sampler is None else pipeline.sampler(settings.sampler),
            guidance=None if settings.guidance is None else Guidance(settings.guidance, interval=interval),
        )

    def capacity(self, each: Complex) -> int:
        """How many samples of a complex go into one network call."""
        if self.settings.batch_size != "auto":
            return self.settings.batch_size
        if self.pipeline.device.type == "cpu":
            return ON_CPU
        atoms = each.ligand.n_atoms
        room = GPU_SHARE * torch.cuda.mem_get_info(self.pipeline.device)[0]
        return max(1, int(room / (PAIR_BYTES * atoms * (each.nodes - atoms))))

    def dock(self, complexes: Sequence[Complex]) -> Iterator[Docked | tuple[Complex, DiscoError]]:
        """All poses of every complex, in order; instead of poses the error of a complex that has none.

        A call that runs out of memory is tried again in halves; where one sample is too much, its complex fails.
        """
        try:
            found = self._dock(complexes)
        except ERRORS as error:
            found = [(complexes[0], _named(error))] if len(complexes) == 1 else []
        yield from found
        if not found:  # one by one: only the culprit fails
            for each in complexes:
                yield from self.dock([each])

    def _dock(self, complexes: Sequence[Complex]) -> list[Docked | tuple[Complex, DiscoError]]:
        weight = self.pipeline.config.model.regions.weight
        places = [regions_of(self.pipeline, each, self.settings.poses) for each in complexes]
        parts: dict[int, list[Docked]] = {id(place.complex): [] for every in places for place in every}
        for pieces in self._calls([place for every in places for place in every]):
            for part in self._call(pieces):
                parts[id(part.complex)].append(part)
        return [
            _joined(each, [(place, part) for place in every for part in parts[id(place.complex)]], weight)
            for each, every in zip(complexes, places, strict=True)
        ]

    def _calls(self, places: Sequence[Region]) -> Iterator[list[_Piece]]:
        """Network calls as full as they may be: a sample of a complex of capacity c takes the share 1 / c."""
        call: list[_Piece] = []
        room = 1.0
        for place in places:
            share, first = 1.0 / self.capacity(place.complex), place.first
            while first < place.last:
                fits = int(room / share + 1e-9)
                if fits == 0:
                    yield call
                    call, room = [], 1.0
                    continue
                last = min(place.last, first + fits)
                call.append(_Piece(place.complex, first, last))
                room -= share * (last - first)
                first = last
        if call:
            yield call

    def _call(self, pieces: Sequence[_Piece]) -> list[Docked]:
        try:
            return self._solve(pieces)
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            halves = _halves(pieces)
            if len(halves) == 1:
                raise RequestError(
                    "one pose of this complex does not fit into memory: dock into a pocket (--pocket, --center)"
                ) from error
        logger.warning("out of memory with %d poses in one call; trying halves", sum(p.last - p.first for p in pieces))
        if self.pipeline.device.type == "cuda":
            torch.cuda.empty_cache()
        return [part for half in halves for part in self._call(half)]

    def _solve(self, pieces: Sequence[_Piece]) -> list[Docked]:
        start, pipeline = time.perf_counter(), self.pipeline
        ids = [number for p in pieces for number in sample_numbers(p.complex.name, p.last)[p.first :]]
        index = tuple(i for i, p in enumerate(pieces) for _ in range(p.first, p.last))
        batch = DockingBatch(torch.tensor(ids), tuple(p.complex for p in pieces), index).to(pipeline.device)
        latents = pipeline.latents_for(self.request, batch)
        frames: list[Pose] = []
        record: Callback | None = (lambda step: _keep(step, frames)) if self.settings.trajectory else None
        state, _ = pipeline.solve(batch, latents, self.request, record)
        scores = pipeline.domain.scores(pipeline.networks, state, batch)
        confidence = scores["confidence"].double().cpu().numpy() if "confidence" in scores else None
        seconds = (time.perf_counter() - start) / len(index)
        return [
            _part(batch, number, [*frames, state] if frames else [state], latents, confidence, seconds)
            for number in range(len(pieces))
        ]


def conformer_seed(seed: int, name: str) -> int:
    """Seed of a complex's conformer."""
    return derive_key(seed, f"conformer/{name}")[0] % 2**31


def _keep(step: Step, frames: list[Pose]) -> None:
    frames.append(step.state)


def _part(
    batch: DockingBatch, piece: int, states: Sequence[Pose], latents: Latents | None, confidence: np.ndarray | None,
    seconds: float,
) -> Docked:  # fmt: skip
    numbers = [number for number, which in enumerate(batch.index) if which == piece]
    frames = np.stack([[pose_positions(state, batch, number) for state in states] for number in numbers])
    return Docked(
        batch.complexes[piece],
        frames[:, -1],
        None if latents is None else latents.codes[numbers].cpu().numpy(),
        None if confidence is None else confidence[numbers],
        frames if len(states) > 1 else None,
        seconds * len(numbers),
    )


def _joined(each: Complex, found: Sequence[tuple[Region, Docked]], site_weight: float) -> Docked:
    """All samples of a complex, whose latents then name nodes of the whole of it."""
    parts = [part for _, part in found]

    def every(name: str) -> np.ndarray | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else np.concatenate(values)

    positions, codes = np.concatenate([part.positions for part in parts]), every("codes")
    sites = tuple(place.site for place, part in found for _ in part.positions if place.site is not None)
    if codes is not None and sites:
        owners = [place.complex for place, part in found for _ in part.positions]
        codes = np.array([[whole_code(int(c), owner) for c in row] for row, owner in zip(codes, owners, strict=True)])
    seconds = sum(part.seconds for part in parts)
    confidence = every("confidence")
    if confidence is not None:
        confidence = ranked_together(confidence, sites, site_weight)
    return Docked(each, positions, codes, confidence, every("frames"), seconds, sites or None)


def _halves(pieces: Sequence[_Piece]) -> list[list[_Piece]]:
    """The samples of a call as two calls; as one where there is but one sample."""
    samples = [_Piece(p.complex, number, number + 1) for p in pieces for number in range(p.first, p.last)]
    middle = len(samples) // 2
    return [_merged(half) for half in (samples[:middle], samples[middle:]) if half]


def _merged(samples: Sequence[_Piece]) -> list[_Piece]:
    merged: list[_Piece] = []
    for sample in samples:
        if merged and merged[-1].complex is sample.complex:
            merged[-1] = _Piece(sample.complex, merged[-1].first, sample.last)
        else:
            merged.append(sample)
    return merged


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    named = isinstance(error, MemoryError | torch.OutOfMemoryError)
    said = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
    return named or any(words in text for words in said)


def _named(error: BaseException) -> DiscoError:
    """A new error: by its traceback, the old one holds on to all memory of the call that failed."""
    if isinstance(error, DiscoError):
        return RequestError(str(error))
    return RequestError(f"the networks failed on this complex: {type(error).__name__}: {error}")
