"""The complexes of one split as a data set."""

import hashlib
import logging
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from core.errors import DataError, DiscoError
from core.files import sha256
from core.rng import SampleStreams
from domains.docking.batch import DockingBatch
from domains.docking.complex import Complex
from domains.docking.config import CropConfig, DataConfig, QuirksConfig
from domains.docking.crops import random_crop, surroundings
from domains.docking.data.prepare import Preparation, counted, prepared_complexes, with_language
from domains.docking.data.processes import default_workers
from domains.docking.data.sequences import quick_sequences, same_chains
from domains.docking.data.sources import Source, chosen, find_sources
from domains.docking.data.store import Cache
from domains.docking.language import LanguageModel
from domains.docking.pose import Pose, pose_of

logger = logging.getLogger("disco")
NAMED = 5  # complexes that a warning names


class DockingDataset:
    """The complexes of one split (``all``: of every split), prepared or taken from the cache when the data set is made.

    names: the complexes asked for, at most ``limit`` of a ``total``; complexes: those that can be used, sorted by name;
    conformers: of each, the conformers [n, 3] laid on its true pose, in the frame of its graph, the graph's own
    ``matched`` first; left_out: why some could not be used (also logged); unseen: those whose receptor the table or
    list says is not in training. Raises DataError where the folder, the table or the lists are missing or wrong, or
    nothing is left.
    """

    def __init__(
        self, config: DataConfig, split: str, language: LanguageModel | None = None,
        quirks: QuirksConfig = QuirksConfig(), limit: int | None = None,
    ) -> None:  # fmt: skip
        lists = config.splits if isinstance(config.splits, str) else {str(k): path for k, path in config.splits.items()}
        everything = find_sources(config.folder, config.table, lists)
        wanted = chosen(everything, split, config.table or str(config.splits or config.folder))
        self.unseen = {each.name for each in everything if each.unseen}
        self.sources = {each.name: each for each in wanted[:limit]}
        self.names, self.total = list(self.sources), len(wanted)
        self.left_out: dict[str, str] = {}
        self.crop, self.largest = (config.crop, config.largest) if split == "train" else (None, None)
        self._near: dict[int, Complex] = {}
        self.complexes: list[Complex] = []
        self.conformers: list[tuple[Float[Tensor, "n 3"], ...]] = []
        self._prepare(config, language, quirks)
        if not self.complexes:
            reason = next(iter(self.left_out.values()))
            where = config.folder or config.table
            raise DataError(f"{where}: no complex of the split '{split}' can be used; the first: {reason}")
        if self.left_out:
            logger.warning(
                "%d of %d complexes left out: %s", len(self.left_out), len(self.names), counted(self.left_out.values())
            )
        if split == "train":
            self._warn_of_tested(everything)

    def _prepare(self, config: DataConfig, language: LanguageModel | None, quirks: QuirksConfig) -> None:
        preparation, cache = Preparation.of(quirks, config.conformers), Cache(config.cache)
        workers = default_workers() if config.workers is None else config.workers
        found: dict[str, tuple[Complex, tuple[Tensor, ...]]] = {}
        for source, prepared, _ in prepared_complexes(list(self.sources.values()), preparation, cache, workers):
            try:
                if isinstance(prepared, str):
                    raise DataError(prepared)
                if self.largest is not None and prepared.complex.ligand.n_atoms > self.largest:
                    raise DataError(f"more than {self.largest} heavy atoms (model.data.largest)")
                found[source.name] = with_language(prepared.complex, language), prepared.conformers
            except DiscoError as error:
                self.left_out[source.name] = str(error)
                logger.warning("%s left out: %s", source.name, error)
        for name in self.names:
            if name in found:
                self.complexes.append(found[name][0])
                self.conformers.append(found[name][1])

    def _warn_of_tested(self, everything: Sequence[Source]) -> None:
        """Say where a complex of the test split has a chain that is trained on, letter for letter."""
        trained = {each.name: each.receptor.protein.chain_sequences().values() for each in self.complexes}
        tested = {
            each.name: quick_sequences(each.protein) for each in everything
            if each.split == "test" and not each.problem
        }  # fmt: skip
        shared = same_chains(tested, trained)
        if shared:
            few = "; ".join(f"{test} like {train}" for test, train in list(shared.items())[:NAMED])
            logger.warning(
                "%d of %d test complexes have a receptor chain that is also trained on, so figures on them say nothing "
                "of new proteins: %s%s",
                len(shared), len(tested), few, " ..." if len(shared) > NAMED else "",
            )  # fmt: skip

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over names and files."""
        digest = hashlib.sha256()
        for each in self.complexes:
            source = self.sources[each.name]
            for path in (source.protein, *source.ligands):
                digest.update(f"{each.name}/{path.name}:{sha256(path)}".encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.complexes)

    def load(self, indices: Sequence[int] | np.ndarray, ids: Sequence[int] | np.ndarray) -> DockingBatch:
        """Samples ``ids`` of the complexes at ``indices``; in training as random crops, where the settings say so."""
        places, numbers = [int(i) for i in indices], torch.as_tensor(np.asarray(ids))
        if self.crop is not None:
            return self._cropped(places, numbers, self.crop)
        different = sorted(set(places))
        clean = [
            pose_of(self.complexes[i].graph, self.conformer(i, n))
            for i, n in zip(places, numbers.tolist(), strict=True)
        ]
        return DockingBatch(
            numbers, tuple(self.complexes[i] for i in different), tuple(different.index(i) for i in places),
            Pose.concatenate(clean),
        )  # fmt: skip

    def around(self, index: int, pose: Float64[np.ndarray, "n 3"], number: int) -> Complex:
        """What sample ``number`` sees of a complex whose ligand is at ``pose`` (Angstrom, frame of the protein's file)
        instead of its true place: likewise a random crop where the settings say so."""
        whole = self.complexes[index]
        return whole if self.crop is None else random_crop(whole, self.crop, number, pose)

    def _cropped(self, places: Sequence[int], numbers: Tensor, crop: CropConfig) -> DockingBatch:
        crops, clean = [], []
        for place, number in zip(places, numbers.tolist(), strict=True):
            whole, near = self.complexes[place], self._surroundings(place, crop)
            crops.append(random_crop(near, crop, number))
            shift = torch.from_numpy(whole.receptor.centre - crops[-1].receptor.centre).float()
            clean.append(pose_of(crops[-1].graph, self.conformer(place, number) + shift))
        return DockingBatch(numbers, tuple(crops), tuple(range(len(crops))), Pose.concatenate(clean))

    def _surroundings(self, place: int, crop: CropConfig) -> Complex:
        """All that a crop may reach, cut out once: large proteins would cost their whole size in every step."""
        if crop.whole:
            return self.complexes[place]
        if place not in self._near:
            self._near[place] = surroundings(self.complexes[place], crop)
        return self._near[place]

    def conformer(self, index: int, number: int) -> Float[Tensor, "n 3"]:
        """The conformer on the true pose that sample ``number`` of a complex sees; it follows from the number alone."""
        several = self.conformers[index]
        if len(several) == 1:
            return several[0]
        share = float(SampleStreams(0, [number], "which conformer").uniform(1)[0, 0])
        return several[min(int(share * len(several)), len(several) - 1)]
