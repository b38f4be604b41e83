"""What receptors share: identical chains, sequence identity, clusters.

Identity is that of the best local alignment (Smith-Waterman, BLOSUM62, a gap of n residues costs 11 + n): equal pairs
over all columns of the alignment, gaps included. It counts where the alignment pairs at least half of the shorter
chain's residues and scores 40 or more, which unrelated chains seldom reach; otherwise it is 0.

A search first drops pairs that share no more words of three residues than chance has it. Of chain pairs with 30 % or
more that drops less than one in a hundred (``EXCESS``), so a highest identity may be too low, never too high.
"""

import gzip
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from Bio.Align import PairwiseAligner, substitution_matrices
from jaxtyping import Int
from scipy.sparse import csr_matrix

from core.errors import RequestError
from domains.docking.chemistry.protein import read_protein
from domains.docking.chemistry.residues import letter, parent

LEAST = 20  # residues; what is shorter is a peptide, and similar to much by chance
COVERED = 0.5  # of the shorter chain
SCORE = 40.0
SIMILAR = 0.3  # identity above which receptors count as similar
WORD = 3  # residues
# Standard deviations by which a pair has more words in common than two random chains have (a Poisson number). On 14,354
# pairs of real chains 2 misses 0.4 % of those with 30 % identity (0.8 % of those below 40 %), and drops 45 % of random
# pairs.
EXCESS = 2.0
PLAIN = "ACDEFGHIKLMNPQRSTVWY"


def quick_sequences(path: Path) -> list[str]:
    """One-letter sequences of the chains of a PDB file from its C-alphas: what ``Protein.chain_sequences`` gives for
    plain files, a hundred times faster. Other formats are read in full; of what cannot be read there are none."""
    try:
        if not path.name.removesuffix(".gz").endswith((".pdb", ".ent")):
            return list(read_protein(path).chain_sequences().values())
        content = path.read_bytes()
        text = (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode("latin-1")
    except (OSError, EOFError, RequestError):
        return []
    chains: dict[str, dict[str, str]] = {}
    for line in text.split("ENDMDL", 1)[0].splitlines():
        if line[12:16] == " CA " and line.startswith(("ATOM", "HETATM")):
            name = line[17:20].strip()
            chains.setdefault(line[21], {}).setdefault(line[22:27], letter(name, parent(name)))
    return ["".join(chain.values()) for chain in chains.values()]


def same_chains(
    tested: Mapping[str, Iterable[str]], trained: Mapping[str, Iterable[str]]
) -> dict[str, str]:  # fmt: skip
    """Complexes of ``tested`` that have a chain of ``trained``, letter for letter, and the first one that has it."""
    owner, found = _owners(trained), {}
    for name, sequences in tested.items():
        same = next((owner[each] for each in sequences if each in owner), None)
        if same is not None:
            found[name] = same
    return found


@cache
def _aligner() -> Any:
    make: Any = PairwiseAligner
    matrix: Any = substitution_matrices
    return make(
        mode="local", substitution_matrix=matrix.load("BLOSUM62"), open_gap_score=-12, extend_gap_score=-1
    )  # fmt: skip


def identity(first: str, second: str) -> float:
    """Sequence identity of two chains, 0..1; 0 where the alignment is too short or too poor (see above)."""
    if first == second:
        return 1.0
    one, other = _known(first), _known(second)
    if _aligner().score(one, other) < SCORE:  # much faster than the alignment itself
        return 0.0
    counts = _aligner().align(one, other)[0].counts()
    paired = counts.identities + counts.mismatches
    if paired < COVERED * min(len(first), len(second)):
        return 0.0
    return float(counts.identities / (paired + counts.gaps))


@dataclass(frozen=True)
class Nearest:
    """The most similar chain: whose it is, and the identity, 0 where none is similar at all."""

    name: str = ""
    identity: float = 0.0


def nearest(
    tested: Mapping[str, Iterable[str]], trained: Mapping[str, Iterable[str]], excess: float = EXCESS
) -> Iterator[tuple[str, Nearest]]:  # fmt: skip
    """Of every complex of ``tested`` the chain of ``trained`` that is most similar to one of its chains, one by one.

    Chains by complex; those under ``LEAST`` residues do not count. excess: see ``EXCESS``, -inf to align every pair.
    """
    owner = _owners(trained)
    chains, known = list(owner), Words(list(owner))
    done: dict[str, Nearest] = {}
    for name, sequences in tested.items():
        best = Nearest()
        for sequence in {each for each in sequences if len(each) >= LEAST}:
            if sequence not in done:
                candidates = known.candidates(sequence, excess)
                found = max(((identity(sequence, chains[i]), i) for i in candidates), default=(0.0, 0))
                done[sequence] = Nearest(owner[chains[found[1]]], found[0]) if found[0] else Nearest()
            best = max(best, done[sequence], key=lambda each: each.identity)
        yield name, best


def clusters(complexes: Mapping[str, Iterable[str]], least: float = SIMILAR) -> dict[str, str]:
    """Cluster of every complex, named after one of its members.

    Greedy: from the longest chain to the shortest, each joins the first cluster whose longest chain has an identity of
    ``least`` with it, else founds one; complexes that share a cluster of chains are then in one cluster. A complex
    without a chain of ``LEAST`` residues is alone.
    """
    owner = _owners(complexes)
    chains = sorted(owner, key=lambda chain: (-len(chain), chain))
    words, founders = Words(chains), np.zeros(len(chains), dtype=bool)
    chain_cluster: dict[str, int] = {}
    for number, chain in enumerate(chains):
        candidates = (i for i in words.candidates(chain, EXCESS) if founders[i])
        joined = next((i for i in candidates if identity(chain, chains[i]) >= least), number)
        founders[joined], chain_cluster[chain] = True, joined
    return _joined(complexes, chain_cluster)


def _joined(complexes: Mapping[str, Iterable[str]], chain_cluster: Mapping[str, int]) -> dict[str, str]:
    """Complexes by the clusters of their chains, which a complex of several chains ties together."""
    first: dict[int, str] = {}
    above = {name: name for name in complexes}

    def root(name: str) -> str:
        while above[name] != name:
            name = above[name]
        return name

    for name, sequences in complexes.items():
        for number in {chain_cluster[each] for each in sequences if each in chain_cluster}:
            above[root(name)] = root(first.setdefault(number, name))
    return {name: root(name) for name in complexes}


def _owners(complexes: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Every different chain of at least ``LEAST`` residues, with the first complex that has it."""
    owner: dict[str, str] = {}
    for name, sequences in complexes.items():
        for sequence in sequences:
            if len(sequence) >= LEAST:
                owner.setdefault(sequence, name)
    return owner


class Words:
    """Which words of three residues some chains have."""

    def __init__(self, chains: Sequence[str]) -> None:
        each = [_words(chain) for chain in chains]
        self.counts = np.array([len(words) for words in each])
        rows = np.repeat(np.arange(len(chains)), self.counts)
        columns = np.concatenate([*each, np.empty(0, np.int64)]).astype(np.int64)
        shape = (len(chains), len(PLAIN) ** WORD)
        self.has = csr_matrix((np.ones(len(rows), dtype=np.int32), (rows, columns)), shape=shape)

    def candidates(self, sequence: str, excess: float) -> list[int]:
        """Numbers of the chains that may be similar, those with most words in common first."""
        words = _words(sequence)
        own = np.zeros(self.has.shape[1], dtype=np.int32)
        own[words] = 1
        chance = len(words) * self.counts / len(own)
        score = (self.has @ own - chance) / np.sqrt(np.maximum(chance, 1))
        order = np.argsort(-score, kind="stable")
        return [int(i) for i in order[score[order] >= excess]]


def _words(sequence: str) -> Int[np.ndarray, " w"]:
    """Numbers of the different words of a chain, unknown residues left out."""
    codes = np.array([PLAIN.find(code) for code in sequence], dtype=np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(codes, WORD) if len(codes) >= WORD else np.empty((0, WORD), int)
    whole = windows[(windows >= 0).all(axis=1)]
    return np.unique(whole @ len(PLAIN) ** np.arange(WORD))


def _known(sequence: str) -> str:
    """Letters that BLOSUM62 has."""
    return "".join(code if code in PLAIN else "X" for code in sequence)
