"""Poses scored as they are by other programs' scoring functions: optional extras beside the model's confidence.

Nothing is moved, and the ranking stays that of the confidence. Each program runs in a process of its own
(``worker_vina``, ``worker_gnina``): their compiled parts do not agree with RDKit's or with each other's in one process,
and none of their failures can end a docking run.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64
from rdkit import Chem

from core.errors import RequestError
from domains.docking.chemistry.protein import Protein
from domains.docking.dock.rescore.gnina import gnina_scores
from domains.docking.dock.rescore.vina import vina_scores

Rescorer = Literal["vina", "gnina"]
Scores = dict[str, Float64[np.ndarray, " p"]]
Score = Callable[[Chem.Mol, Float64[np.ndarray, "p n 3"], Protein], Scores]

PACKAGES: Mapping[str, tuple[str, ...]] = {"vina": ("vina", "meeko"), "gnina": ("gninatorch", "molgrid")}
PROGRAMS: Mapping[str, Score] = {"vina": vina_scores, "gnina": gnina_scores}
NAMES: Mapping[str, tuple[str, ...]] = {
    "vina": ("vina",),
    "gnina": ("gnina_cnn_score", "gnina_cnn_affinity"),
}


def require(names: Sequence[str]) -> None:
    """Raises RequestError where a program is unknown or one of its packages is not installed: ask before docking."""
    for name in names:
        if name not in PACKAGES:
            raise RequestError(f"rescoring: no program {name!r}; there are {', '.join(PACKAGES)}")
        missing = [package for package in PACKAGES[name] if find_spec(package) is None]
        if missing:
            raise RequestError(
                f"rescoring with {name} needs {' and '.join(missing)}: pip install 'disco-diff[rescore]' "
                "(wheels for Linux on x86-64)"
            )


def rescore(name: Rescorer, mol: Chem.Mol, poses: Float[np.ndarray, "p n 3"], protein: Protein) -> Scores:
    """Scores [P] by name of poses [P, n, 3] (Angstrom, frame of the protein) of a sanitised ligand of heavy atoms.

    ``vina``: AutoDock Vina's empirical function, kcal/mol, lower is better: contacts over a count of rotors. It is
    calibrated on affinities of crystal poses, and a rough figure; here it is without its local optimisation, so a
    single overlap can make a good pose positive. ``gnina_cnn_score``: probability, 0 to 1, that gnina's ensemble of
    networks gives the pose to be within 2 A of the true one; it says nothing about affinity. ``gnina_cnn_affinity``:
    the same networks' estimate of pK (-log10 of a molar affinity), higher is better, which supposes that the pose is
    right. None of them knows waters, metals or cofactors, for the protein here has none.

    NaN for poses that are not finite and for those that the program refuses. Raises RequestError as ``require`` does,
    and RequestError or DataError where the program cannot take the complex or fails.
    """
    require([name])
    finite = np.isfinite(poses).all(axis=(1, 2))
    values: Scores = {column: np.full(len(poses), np.nan) for column in NAMES[name]}
    if finite.any():
        for column, found in PROGRAMS[name](mol, poses[finite].astype(np.float64), protein).items():
            values[column][finite] = found
    return values
