"""Complexes from their files, in parallel, kept in a cache by the content of the files."""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from core.errors import DiscoError, RequestError
from core.rng import derive_key
from domains.docking.chemistry.conformer import pick
from domains.docking.chemistry.ligand import Ligand, read_ligand
from domains.docking.chemistry.protein import read_protein
from domains.docking.complex import Complex, Receptor, make_complex
from domains.docking.config import QuirksConfig
from domains.docking.data.processes import in_processes
from domains.docking.data.sources import WITHOUT_ORDERS, Source, complex_files
from domains.docking.data.store import Cache, Prepared, decode, encode
from domains.docking.language import LanguageModel
from domains.docking.pose import pose_of

logger = logging.getLogger("disco")
PROGRESS = 100  # complexes between two lines of the log


@dataclass(frozen=True)
class Preparation:
    """The settings that a prepared complex depends on.

    conformers: so many per complex are laid on its true pose; the others: quirks of the authors (QuirksConfig).
    """

    conformers: int = 1
    raw_chirality: bool = False
    turn_double_bonds: bool = False

    @staticmethod
    def of(quirks: QuirksConfig, conformers: int = 1) -> "Preparation":
        """Those of a model."""
        return Preparation(conformers, quirks.raw_chirality, quirks.turn_double_bonds)

    def key(self, source: Source) -> str:
        """SHA-256 over these settings, the complex's name, and the names and contents of its files.

        Names count because the conformers follow from that of the complex, and titles may follow from those of files.
        """
        digest = hashlib.sha256(f"{self}\n{source.name}\n{source.template}".encode())
        for path in (source.protein, *source.ligands):
            digest.update(f"\n{path.parent.name}/{path.name}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def prepare(self, source: Source) -> Prepared:
        """The complex with its true pose, from its files. Raises DiscoError."""
        receptor = Receptor.of(read_protein(source.protein))
        ligand = _first_readable(source, self.raw_chirality)
        seed = int.from_bytes(hashlib.sha256(source.name.encode()).digest()[:4], "little") % 2**31
        made = make_complex(
            source.name, receptor, ligand, seed, with_pose=True, turn_double=self.turn_double_bonds
        )  # fmt: skip
        return Prepared(made, (made.graph["ligand"].matched, *self._further(made, seed)))

    def _further(self, made: Complex, seed: int) -> Iterator[Tensor]:
        """More conformers on the true pose; one that RDKit cannot make is one less."""
        truth, torsions = made.ligand.coordinates, pose_of(made.graph).torsions
        assert truth is not None
        for number in range(1, self.conformers):
            another = derive_key(seed, f"conformer {number}")[0]
            try:
                _, matched = pick(made.ligand.mol, truth - made.receptor.centre, torsions, another)
            except RequestError as error:
                logger.info("%s: conformer %d left out: %s", made.name, number, error)
                continue
            yield torch.as_tensor(matched, dtype=torch.float32)


@dataclass(frozen=True)
class Task:
    """What a process needs to prepare one complex and keep it."""

    number: int
    source: Source
    preparation: Preparation
    cache: Cache
    key: str

    def run(self) -> tuple[bytes | str, str]:
        """Bytes of the prepared complex, or why there are none; and what is wrong with the cache."""
        prepared = attempt(self.source, self.preparation)
        if isinstance(prepared, str):
            return prepared, ""
        data = encode(prepared)
        return data, self.cache.save(self.key, data)


def read_complex(folder: Path, language: LanguageModel | None = None, quirks: QuirksConfig = QuirksConfig()) -> Complex:
    """A complex with its true pose; its conformer follows from its name. Raises DataError or RequestError."""
    protein, *ligands = complex_files(folder)
    source = Source(folder.name, protein, tuple(ligands))
    return with_language(Preparation.of(quirks).prepare(source).complex, language)


def with_language(each: Complex, language: LanguageModel | None) -> Complex:
    """The complex with residue embeddings; they have a cache of their own, one entry per sequence.

    Raises what ``LanguageModel.embed`` raises.
    """
    if language is None:
        return each
    protein = each.receptor.protein
    embeddings = language.residue_embeddings(protein.chain_sequences(), protein.n_residues)
    each.graph["receptor"].language = torch.as_tensor(embeddings)
    residues = {**each.receptor.residues, "language": embeddings}
    return replace(each, receptor=replace(each.receptor, residues=residues))


def prepared_complexes(
    sources: Sequence[Source], preparation: Preparation, cache: Cache, workers: int
) -> Iterator[tuple[Source, Prepared | str, bool]]:
    """Every source with its complex, or why it cannot be used, and whether it came from the cache.

    In any order: first what the cache has, then the others as they are done. What is prepared is in the cache by then,
    so a run that is stopped loses nothing. workers: processes, 0 for this one.
    """
    tasks: list[Task] = []
    for number, source in enumerate(sources):
        if source.problem:
            yield source, source.problem, False
            continue
        try:
            key = preparation.key(source)
        except OSError as error:
            yield source, f"cannot be read: {error}", False
            continue
        found = cache.load(key)
        if found is None:
            tasks.append(Task(number, source, preparation, cache, key))
        else:
            yield source, found, True
    if tasks:
        logger.info("%d of %d complexes are not in the cache and are prepared now", len(tasks), len(sources))
    for done, (task, (result, problem)) in enumerate(in_processes(tasks, workers), start=1):
        cache.warn(problem)
        yield task.source, decode(result) if isinstance(result, bytes) else result, False
        if done % PROGRESS == 0:
            logger.info("prepared %d of %d complexes", done, len(tasks))


def attempt(source: Source, preparation: Preparation) -> Prepared | str:
    """The complex of a source, or why it cannot be used."""
    try:
        return preparation.prepare(source)
    except DiscoError as error:
        return str(error)
    except Exception as error:  # one complex's surprise must not end the preparation of twenty thousand
        return f"unexpected {type(error).__name__}: {error}; please report this complex"


def counted(reasons: Iterable[str]) -> str:
    """Reasons for leaving complexes out, the most frequent first, with how often each; without paths and numbers."""
    kinds = Counter(re.sub(r"\d+", "#", re.sub(r"\S*/\S*", "", reason)).strip(" :") for reason in reasons)
    return "; ".join(f"{count} x {kind}" for kind, count in kinds.most_common())


def _first_readable(source: Source, raw_chirality: bool) -> Ligand:
    """PDBBind gives every ligand in two formats, and some in one of them only can be made sense of."""
    errors = []
    for path in source.ligands:
        ordered = path.name.removesuffix(".gz").endswith(WITHOUT_ORDERS)
        try:
            return read_ligand(path, (source.template or None) if ordered else None, raw_chirality=raw_chirality)
        except RequestError as error:
            errors.append(error)
    raise errors[0]
