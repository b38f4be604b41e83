"""Poses as SDF files, in the frame of the protein that was given."""

import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from rdkit import Chem

from core.files import write_text
from core.pipeline import Generated
from domains.docking.batch import DockingBatch
from domains.docking.chemistry.stereo import same_stereo
from domains.docking.metrics.poses import with_poses
from domains.docking.pose import Pose

logger = logging.getLogger("disco")
V2000_ATOMS = 999  # more do not fit the older format
LONGEST_NAME = 80  # characters of a folder's name; file systems take 255 bytes


def pose_positions(samples: Pose, batch: DockingBatch, number: int) -> Float64[np.ndarray, "n 3"]:
    """Atoms of one sample in the frame of the protein's file, Angstrom."""
    place = samples.positions[number][samples.mask[number]].detach().cpu().double().numpy()
    return place + batch.complexes[batch.index[number]].receptor.centre


def folder_names(names: Iterable[str]) -> Iterator[str]:
    """Names that are one folder each on every system: letters, digits and ``. _ + -``, short, and no two alike but for
    capitals."""
    taken: set[str] = set()
    for name in names:
        plain = re.sub(r"[^\w.+-]+", "_", name).strip("._")[:LONGEST_NAME] or "complex"
        unique, count = plain, 1
        while unique.casefold() in taken:
            count += 1
            unique = f"{plain}_{count}"
        taken.add(unique.casefold())
        yield unique


def write_poses(result: Generated, out: Path) -> list[Path]:
    """OUT/NAME/poses.sdf for every complex that has samples, best confidence first where there is one.

    Properties of a record: ``sample`` (its number), ``rank`` and ``confidence``, ``latent_1`` ... (the node that each
    pointer latent names), ``stereo`` (``kept``, or ``changed`` where the pose is another stereoisomer than the input).
    Poses that are not finite (networks can overflow) are left out and named in the log.
    """
    batch: DockingBatch = result.batch  # type: ignore[assignment]
    folders = dict(zip(range(len(batch.complexes)), folder_names(c.name for c in batch.complexes), strict=True))
    paths = []
    for which in dict.fromkeys(batch.index):
        numbers = [number for number, other in enumerate(batch.index) if other == which]
        confidence = result.scores.get("confidence")
        if confidence is not None:
            numbers.sort(key=lambda number: -float(confidence[number].nan_to_num(-np.inf)))
        records = [text for rank, number in enumerate(numbers, 1) if (text := _record(result, number, rank))]
        paths.append(out / folders[which] / "poses.sdf")
        write_text(paths[-1], "".join(records))
    return paths


def _record(result: Generated, number: int, rank: int) -> str:
    """One pose with its properties; empty where it is not finite."""
    batch: DockingBatch = result.batch  # type: ignore[assignment]
    each, place = batch.complexes[batch.index[number]], pose_positions(result.state, batch, number)
    if not np.isfinite(place).all():
        logger.warning("%s: sample %d is not finite and is left out", each.name, int(batch.ids[number]))
        return ""
    mol = with_poses(each.ligand.mol, place[None])
    mol.SetProp("_Name", each.ligand.name)
    properties = {"sample": str(int(batch.ids[number]))}
    if "confidence" in result.scores:
        properties |= {"rank": str(rank), "confidence": f"{float(result.scores['confidence'][number]):.4f}"}
    if result.latents is not None and result.latents.values.shape[2] >= each.nodes:
        codes = result.latents.codes[number].tolist()
        properties |= {f"latent_{slot}": each.node_name(code) for slot, code in enumerate(codes, 1)}
    properties["stereo"] = "kept" if same_stereo(each.ligand.mol, mol) else "changed"
    return _mol_block(mol) + "".join(f">  <{name}>\n{text}\n\n" for name, text in properties.items()) + "$$$$\n"


def _mol_block(mol: Chem.Mol) -> str:
    large = mol.GetNumAtoms() > V2000_ATOMS
    try:
        return str(Chem.MolToMolBlock(mol, forceV3000=large))
    except Chem.KekulizeException:  # of a ligand that was read with aromatic bonds that have no Kekule structure
        return str(Chem.MolToMolBlock(mol, forceV3000=large, kekulize=False))
