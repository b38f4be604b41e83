"""Residue embeddings of ESM-2: what a protein language model knows about every residue from the sequence alone.

DiffDock and its descendants feed the last layer (33) of esm2_t33_650M_UR50D, 1280 numbers per residue, chain by chain.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from core.cache import cache_folder
from core.errors import CheckpointError, RequestError, StorageError
from core.files import write_atomically
from domains.docking.esm2 import ALPHABET, ESM2, ESM2Files, find_esm2

WIDTH = 1280  # numbers per residue that the published docking models take
WINDOW = 1022  # residues that ESM-2 saw at once in training: 1024 tokens with the two at the ends
TOKENS_AT_ONCE = 4096  # bounds the memory of one call of the network
TOKENS = {letter: index for index, letter in enumerate(ALPHABET) if len(letter) == 1}
BEGIN, END = ALPHABET.index("<cls>"), ALPHABET.index("<eos>")
DIGEST = 32  # bytes of SHA-256 before the numbers of a cache file

Embedding = Float32[np.ndarray, "l w"]


class LanguageModel:
    """Embeds protein sequences, each chain on its own; loads its network only for sequences that are not in the cache.

    A chain longer than ``window`` residues is seen through windows of that length that overlap by half of it or more.
    Every residue is taken from the window whose middle is nearest (the earlier one of two): there it has the most
    context, at least a quarter of a window on either side, and its vector is one that the network really made; the mean
    of two would be neither. The published docking weights were trained with chains of up to 4096 residues in one piece:
    ``window=4096`` repeats that.

    The same sequence gives the same numbers whatever else is asked for, as only windows of one length share a call and
    nothing is padded (to rounding in the last digits: the network may see them one by one or several at once).
    """

    def __init__(self, files: ESM2Files, device: str | torch.device = "cpu", window: int = WINDOW) -> None:
        if window < 1:
            raise RequestError(f"a window of {window} residues shows nothing: give at least 1")
        self.files, self.device, self.window = files, torch.device(device), window
        self._network: ESM2 | None = None

    @classmethod
    def from_folder(
        cls, path: str | Path, device: str | torch.device = "cpu", *, width: int = WIDTH, window: int = WINDOW
    ) -> "LanguageModel":
        """The model in a Hugging Face folder, or an ``esm2_*.pt`` or its folder.

        Raises RequestError where there is none or it gives another number than ``width`` per residue, CheckpointError
        where it is damaged (some of this only when the network is first needed).
        """
        files = find_esm2(Path(path))
        if files.shape.width != width:
            raise RequestError(
                f"{path}: this language model gives {files.shape.width} numbers per residue but the docking model takes"
                f" {width}: use the one it was trained with (1280: esm2_t33_650M_UR50D)"
            )
        return cls(files, device, window)

    def embed(self, sequences: Sequence[str]) -> list[Embedding]:
        """One array [L, width] per sequence, in order. Sequences are one-letter codes in capitals.

        ``X`` is an unknown residue; a capital that ESM-2 has no token for (J) is read as X. ``-`` and ``.`` have tokens
        of their own (the authors wrote ``-`` for unknown residues).
        Raises RequestError for an empty sequence or another character, StorageError where the cache cannot be written,
        CheckpointError where the network cannot be loaded or gives numbers that are not finite.
        """
        clean = [_clean(sequence) for sequence in sequences]
        found: dict[str, Embedding] = {}
        missing: list[str] = []
        for sequence in dict.fromkeys(clean):
            cached = self._cached(sequence)
            if cached is None:
                missing.append(sequence)
            else:
                found[sequence] = cached
        for sequence, values in self._compute(missing):
            self._store(sequence, values)
            found[sequence] = values
        return [found[sequence] for sequence in clean]

    def residue_embeddings(self, chains: Mapping[str, str], residues: int) -> Float32[np.ndarray, "n w"]:
        """Embeddings [N, width] of a protein: its chains, sequence by id, one after the other in the order given.

        ``residues``: how many the protein has; another sum of lengths is a RequestError, for the numbers would belong
        to other residues. Errors are those of ``embed``, with the chain's id.
        """
        count = sum(map(len, chains.values()))
        if count != residues or residues == 0:
            lengths = ", ".join(f"{chain}: {len(sequence)}" for chain, sequence in chains.items())
            raise RequestError(f"the sequences have {count} residues ({lengths}) but the protein has {residues}")
        for chain, sequence in chains.items():
            try:
                _clean(sequence)
            except RequestError as error:
                raise RequestError(f"chain {chain}: {error}") from error
        return np.concatenate(self.embed(list(chains.values())))

    def _compute(self, sequences: Sequence[str]) -> Iterator[tuple[str, Embedding]]:
        for length, group in groupby(sorted(sequences, key=len), key=len):
            starts = window_starts(length, self.window)
            same = list(group)
            together = max(1, TOKENS_AT_ONCE // (len(starts) * (min(length, self.window) + 2)))
            for first in range(0, len(same), together):
                chunk = same[first : first + together]
                rows = [sequence[start : start + self.window] for sequence in chunk for start in starts]
                outputs = self._forward(rows)
                for index, sequence in enumerate(chunk):
                    windows = outputs[index * len(starts) : (index + 1) * len(starts)]
                    yield sequence, _merge(windows, starts, length)

    @torch.inference_mode()
    def _forward(self, rows: Sequence[str]) -> Float32[np.ndarray, "r l w"]:
        """Sequences of one length, without the tokens that mark their ends."""
        if self._network is None:
            self._network = self.files.load().to(self.device)
        tokens = torch.tensor([[BEGIN, *(TOKENS[letter] for letter in row), END] for row in rows])
        together = max(1, TOKENS_AT_ONCE // tokens.shape[1])
        parts = [self._network(part.to(self.device))[:, 1:-1].float().cpu() for part in tokens.split(together)]
        outputs = torch.cat(parts).numpy()
        if not np.isfinite(outputs).all():
            raise CheckpointError(f"{self.files.file}: gives numbers that are not finite: the weights are damaged")
        return outputs

    def _cache_file(self, sequence: str) -> Path:
        # How a chain is cut matters only where it is.
        window = self.window if len(sequence) > self.window else "whole"
        key = hashlib.sha256(f"{self.files.identity}\n{window}\n{sequence}".encode()).hexdigest()
        return cache_folder() / "esm2" / key[:2] / key

    def _cached(self, sequence: str) -> Embedding | None:
        """What the cache has; None where it has nothing or something damaged, which is then computed again."""
        path = self._cache_file(sequence)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(
                f"cannot read {path} ({error.strerror}): delete it, or choose another cache folder (DISCO_CACHE)"
            ) from error
        data = content[DIGEST:]
        if content[:DIGEST] != _digest(data):
            return None
        return np.frombuffer(data, dtype="<f4").reshape(len(sequence), self.files.shape.width).astype(np.float32)

    def _store(self, sequence: str, values: Embedding) -> None:
        data = values.astype("<f4").tobytes()
        write_atomically(self._cache_file(sequence), lambda file: file.write_bytes(_digest(data) + data))


def window_starts(length: int, window: int) -> list[int]:
    """First residues of the fewest evenly spread windows that cover a chain and overlap by half a window or more."""
    if length <= window:
        return [0]
    count = 1 + -(-(length - window) // max(1, window // 2))
    return [index * (length - window) // (count - 1) for index in range(count)]


def _merge(windows: Float32[np.ndarray, "r part w"], starts: Sequence[int], length: int) -> Embedding:
    """Every residue from the window whose middle is nearest."""
    residues, first = np.arange(length), np.array(starts)
    middles = first + (windows.shape[1] - 1) / 2
    nearest = np.abs(residues[:, None] - middles).argmin(axis=1)
    return windows[nearest, residues - first[nearest]]


def _clean(sequence: str) -> str:
    if not sequence:
        raise RequestError("an empty sequence has no embedding: leave the chain out")
    for place, letter in enumerate(sequence, 1):
        if letter not in TOKENS and not "A" <= letter <= "Z":
            raise RequestError(f"character {place} of a sequence is {letter!r}: use one-letter codes in capitals")
    return "".join(letter if letter in TOKENS else "X" for letter in sequence)


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
