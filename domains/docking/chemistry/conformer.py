"""Conformers made by RDKit, and their fit to a crystal pose by turning rotatable bonds only.

The clean sample of docking's diffusion is not the crystal pose but the nearest pose that an RDKit conformer can take
with its own bond lengths, angles and rings, because generation starts from such a conformer (DisCo-Diff, supplement E,
after DiffDock). The authors search that pose by differential evolution; here the fit has exact derivatives.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom
from torch import Tensor

from core.errors import RequestError
from core.geometry.rigid import superpose
from core.rng import derive_key
from domains.docking.chemistry.cleanup import short_reason
from domains.docking.chemistry.ligand import Ligand
from domains.docking.torsion import Torsions, turn

Positions = Float64[np.ndarray, "n 3"]

ATTEMPTS = 100  # per way of embedding
TIME_LIMIT = 30  # seconds per way of embedding; looked at between the steps of an attempt
MAX_ATOMS_WITH_HYDROGENS = 150  # heavy atoms; larger molecules would take minutes
_ANY_TORSIONS = {"useExpTorsionAnglePrefs": False, "useBasicKnowledge": False, "ignoreSmoothingFailures": True}
# Ways of embedding, the best first, and what to say of a conformer that was made so.
_WAYS: tuple[tuple[dict[str, bool], str], ...] = (
    ({}, ""),
    ({"useRandomCoords": True}, ""),
    ({"useRandomCoords": True, **_ANY_TORSIONS}, "the conformer was made without knowledge of preferred torsions"),
    (
        {"useRandomCoords": True, **_ANY_TORSIONS, "enforceChirality": False},
        "no conformer has the stereochemistry asked for: that of the one used may differ",
    ),
)

RESTARTS = 14
# Most steps downhill, and the part of the squared deviation that a step gains if it is not to be the last.
SEARCH = (20, 1e-4)  # from every start
POLISH = (100, 1e-7)  # of the best


def embed_conformer(mol: Chem.Mol, seed: int) -> Positions:
    """A conformer [n, 3] (Angstrom, arbitrary frame) of a sanitised molecule of heavy atoms, in its order of atoms.

    RDKit's ETKDG version 3, which is the authors' version 2 but for macrocycles. Hydrogens take part in the embedding
    (not in very large molecules). Where it fails, random start coordinates, then fewer rules are tried. Stereocentres
    that are not specified come out as the seed has it. Any coordinates that the molecule has are not looked at.

    Raises:
        RequestError: RDKit finds no conformer within ``ATTEMPTS`` and ``TIME_LIMIT``.
    """
    return _embed(mol, seed)[0]


def ligand_conformer(ligand: Ligand, seed: int) -> tuple[Positions, tuple[str, ...]]:
    """A conformer as ``embed_conformer`` makes it, else the ligand's own coordinates, and notes on either.

    Raises:
        RequestError: RDKit finds no conformer, and the input had no coordinates; it says what to do.
    """
    try:
        positions, note = _embed(ligand.mol, seed)
    except RequestError as error:
        if ligand.coordinates is None:
            with rdBase.BlockLogs():
                impossible = Chem.DetectChemistryProblems(ligand.mol)
            advice = "correct its bonds and charges" if impossible else "give it with 3-D coordinates"
            raise RequestError(f"{error}; {advice}") from error
        return ligand.coordinates.copy(), (f"{error}: those of the input are its conformer",)
    return positions, (note,) if note else ()


def _embed(mol: Chem.Mol, seed: int) -> tuple[Positions, str]:
    """Conformer and what to say of it, perhaps nothing."""
    atoms = mol.GetNumAtoms()
    reason = f"{ATTEMPTS} attempts in each of {len(_WAYS)} ways failed or took over {TIME_LIMIT} s"
    with rdBase.BlockLogs():
        try:
            bare = Chem.Mol(mol)
            Chem.AssignStereochemistry(bare, cleanIt=True, force=True)  # tags of CH2 and CH3 say nothing
            full = bare if atoms > MAX_ATOMS_WITH_HYDROGENS else Chem.AddHs(bare)
            for options, note in _WAYS:
                if rdDistGeom.EmbedMolecule(full, _parameters(options, seed)) < 0:
                    continue
                positions = np.array(full.GetConformer().GetPositions()[:atoms], dtype=np.float64)
                if np.isfinite(positions).all():
                    return positions, note
        except (RuntimeError, ValueError) as error:
            wrong = [each for each in Chem.DetectChemistryProblems(mol) if each.GetType() == "AtomValenceException"]
            number = wrong[0].GetAtomIdx() if wrong else 0
            reason = f"atom {number + 1} has an impossible valence" if wrong else short_reason(error)
    smiles = Chem.MolToSmiles(mol)[:80]
    raise RequestError(f"RDKit makes no conformer of the ligand {smiles} ({reason})")


def _parameters(options: dict[str, bool], seed: int) -> rdDistGeom.EmbedParameters:
    parameters = rdDistGeom.ETKDGv3()
    limits = {"maxIterations": ATTEMPTS, "timeout": TIME_LIMIT}
    number = derive_key(seed, "conformer")[0] >> 1  # RDKit takes 31 bits
    for name, value in {**limits, "randomSeed": number, **options}.items():
        setattr(parameters, name, value)
    return parameters


def match_conformer(conformer: Positions, target: Positions, torsions: Torsions) -> Positions:
    """The conformer with its rotatable bonds turned, and superposed, so that it lies on the target: [n, 3].

    It minimises the root mean square deviation by damped Gauss-Newton steps (Levenberg-Marquardt) over all torsions,
    from the target's torsions, the conformer's and ``RESTARTS`` random ones, always the same; the best is kept. Bond
    lengths, angles, rings and chirality stay those of the conformer.

    conformer, target: [n, 3] Angstrom, the same atoms in the same order; torsions: of this one ligand (B = 1).

    Raises:
        RequestError: a coordinate that is not a number, or different numbers of atoms.
    """
    if conformer.shape != target.shape or not (np.isfinite(conformer).all() and np.isfinite(target).all()):
        raise RequestError(
            f"conformer {conformer.shape} and target {target.shape}: need the same atoms, with finite coordinates"
        )
    start, goal = torch.from_numpy(conformer)[None], torch.from_numpy(target)
    count = torsions.mask.shape[1]
    if not count:
        return _superposed(start, goal)[0].numpy()
    given = torch.stack([_target_angles(start[0], goal, torsions), start.new_zeros(count)])
    random = np.random.default_rng(0).uniform(-np.pi, np.pi, (RESTARTS, count))
    angles = torch.cat([given, torch.from_numpy(random)])
    starts = turn(start.expand(len(angles), -1, -1), _copies(torsions, len(angles)), angles)
    moves = _moves(torsions)
    found = _fit(starts, goal, torsions, moves, *SEARCH)
    best = _deviation(found, goal).argmin()
    return _fit(found[best : best + 1], goal, torsions, moves, *POLISH)[0].numpy()


def pick(
    mol: Chem.Mol, target: Positions, torsions: Torsions, seed: int, tries: int = 1
) -> tuple[Positions, Positions]:
    """The one of ``tries`` conformers that can lie nearest to the target: as embedded [n, 3], and matched [n, 3].

    The first has the seed itself, so more tries never give a worse match. The authors try one.

    Raises:
        RequestError: as of ``embed_conformer`` and ``match_conformer``; ``tries`` below 1.
    """
    if tries < 1:
        raise RequestError(f"tries = {tries}: at least one conformer is needed")
    seeds = [seed, *(derive_key(seed, f"try {number}")[0] for number in range(1, tries))]
    conformers = [embed_conformer(mol, one) for one in seeds]
    matched = [match_conformer(conformer, target, torsions) for conformer in conformers]
    best = int(np.argmin([np.square(found - target).sum() for found in matched]))
    return conformers[best], matched[best]


def _fit(
    x: Float[Tensor, "k n 3"],
    target: Float[Tensor, "n 3"],
    torsions: Torsions,
    moves: Bool[Tensor, "r n"],
    steps: int,
    tolerance: float,
) -> Float[Tensor, "k n 3"]:
    """Nearest poses that steps downhill reach from each of K poses, superposed on the target."""
    copies, bonds = _copies(torsions, len(x)), len(moves)
    x = _superposed(x, target)
    deviation = _deviation(x, target)
    damping = torch.full_like(deviation, 1e-2)
    done = torch.zeros_like(deviation, dtype=torch.bool)
    for _ in range(steps):
        jacobian = _jacobian(x, torsions, moves)
        square = jacobian @ jacobian.mT
        scale = damping[:, None] * (square.diagonal(dim1=-2, dim2=-1) + 1e-3) + 1e-9
        slope = jacobian @ (x - target).flatten(1)[..., None]
        step = -torch.linalg.solve(square + torch.diag_embed(scale), slope)[..., 0]
        trial = _superposed(turn(x, copies, step[:, :bonds]), target)
        after = _deviation(trial, target)
        better = after < deviation
        expected = -(step * slope[..., 0]).sum(1) / x.shape[1]
        # Near the minimum a gain drowns in rounding, so what the linear model expects counts as well.
        done |= (torch.where(better, deviation - after, expected) < tolerance * deviation) | (damping > 1e3)
        x = torch.where(better[:, None, None], trial, x)
        deviation = torch.where(better, after, deviation)
        damping = torch.where(better, damping / 8, damping * 4).clamp(min=1e-9)
        if bool(done.all()):
            break
    return x


def _jacobian(
    x: Float[Tensor, "k n 3"], torsions: Torsions, moves: Bool[Tensor, "r n"]
) -> Float[Tensor, "k parameters coordinates"]:
    """Derivatives of all coordinates [K, R + 3, 3n] by every torsion and by rotations about the three axes.

    Turning a bond of axis a through v moves an atom of its part by a x (x - v). Of each column the mean motion is taken
    off: that is what the best translation does.
    """
    u, v = torsions.bonds[0].T
    axes = torch.eye(3, dtype=x.dtype).expand(len(x), 3, 3)
    axis = torch.cat([torch.nn.functional.normalize(x[:, u] - x[:, v], dim=-1), axes], dim=1)
    origin = torch.cat([x[:, v], x.mean(1, keepdim=True).expand(-1, 3, -1)], dim=1)
    part = torch.cat([moves, moves.new_ones(3, moves.shape[1])])
    arm = (x[:, None] - origin[:, :, None]) * part[..., None]
    motion = torch.linalg.cross(axis[:, :, None].expand_as(arm), arm)
    return (motion - motion.mean(2, keepdim=True)).flatten(2)


def _target_angles(x: Float[Tensor, "n 3"], target: Float[Tensor, "n 3"], torsions: Torsions) -> Float[Tensor, " r"]:
    """Turns [R] of the bonds of x that give it the target's torsions.

    A bond joins two rigid bodies. Seen along the bond, in the complex plane, the product of an atom's place in the
    target and its conjugate place in x has as argument the turn from one to the other; summed over a body this is its
    best turn, and the bond has to make up for the difference of its two bodies. Atoms on the axis weigh nothing.
    """
    (u, v), parent, group = torsions.bonds[0].T, torsions.parent[0], torsions.group[0]
    bonds = len(parent)
    body = torch.zeros(bonds + 1, len(group), dtype=torch.bool)  # the last is what no bond moves, number -1
    body[group, torch.arange(len(group))] = True
    body[parent, v] = True  # the far ends of the bonds that leave a body turn with it
    body[torch.arange(bonds), u] = True
    product = _along(target, u, v) * _along(x, u, v).conj()
    moved, still = (product * body[:bonds]).sum(1), (product * body[parent]).sum(1)
    return (moved * still.conj()).angle()


def _along(x: Float[Tensor, "n 3"], u: Tensor, v: Tensor) -> Tensor:
    """Complex places [R, n] of all atoms in the planes at right angles to the bonds, in some frame of each plane."""
    axis = torch.nn.functional.normalize(x[u] - x[v], dim=-1)
    least = torch.eye(3, dtype=x.dtype)[axis.abs().argmin(1)]
    first = torch.nn.functional.normalize(torch.linalg.cross(axis, least), dim=-1)
    second = torch.linalg.cross(axis, first)
    arm = x[None] - x[v][:, None]
    return torch.complex((arm @ first[..., None])[..., 0], (arm @ second[..., None])[..., 0])


def _moves(torsions: Torsions) -> Bool[Tensor, "r n"]:
    """Which atoms each bond moves: those whose chain of nested parts comes by."""
    parent, part = torsions.parent[0], torsions.group[0]
    moves = torch.zeros(len(parent), len(part), dtype=torch.bool)
    while bool((inside := part >= 0).any()):
        moves[part[inside], inside.nonzero()[:, 0]] = True
        part = torch.where(inside, parent[part], -1)
    return moves


def _copies(torsions: Torsions, count: int) -> Torsions:
    return torsions.select(torch.zeros(count, dtype=torch.long))


def _superposed(x: Float[Tensor, "k n 3"], target: Float[Tensor, "n 3"]) -> Float[Tensor, "k n 3"]:
    rotation, shift = superpose(x, target.expand_as(x), torch.ones(x.shape[:2], dtype=torch.bool))
    return x @ rotation.mT + shift[:, None]


def _deviation(x: Float[Tensor, "k n 3"], target: Float[Tensor, "n 3"]) -> Float[Tensor, " k"]:
    """Mean squared distance of the atoms as they lie."""
    return (x - target).square().sum(-1).mean(-1)
