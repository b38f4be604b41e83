"""Poses as SDF files, in the frame of the protein that was given."""

import logging
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
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
LONGEST_NAME = 80  # characters of a folder's name
LONGEST_BYTES = 200  # of the same in UTF-8; file systems take 255
WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|(com|lpt)\d)(\..*)?", re.IGNORECASE)


def pose_positions(samples: Pose, batch: DockingBatch, number: int) -> Float64[np.ndarray, "n 3"]:
    """Atoms of one sample in the frame of the protein's file, Angstrom."""
    place = samples.positions[number][samples.mask[number]].detach().cpu().double().numpy()
    return place + batch.complexes[batch.index[number]].receptor.centre


def folder_name(name: str) -> str:
    """The name as one folder on every system: letters, digits and ``. _ + -``, short, no device of Windows."""
    plain = re.sub(r"[^\w.+-]+", "_", unicodedata.normalize("NFC", name)).lstrip("._-")[:LONGEST_NAME]
    plain = plain.encode()[:LONGEST_BYTES].decode(errors="ignore").rstrip("._") or "complex"
    return f"complex_{plain}" if WINDOWS_DEVICES.fullmatch(plain) else plain


class FolderNames:
    """Gives names as of ``folder_name`` of which no two are alike but for capitals, and none is ``reserved``."""

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        self._last = {name.casefold(): 1 for name in reserved}  # number of the last folder of every name

    def take(self, name: str) -> str:
        """The folder of a name, with ``_2``, ``_3`` ... where it was taken before."""
        plain = unique = folder_name(name)
        while unique.casefold() in self._last:
            self._last[plain.casefold()] += 1
            unique = f"{plain}_{self._last[plain.casefold()]}"
        self._last[unique.casefold()] = 1
        return unique


def folder_names(names: Iterable[str]) -> Iterator[str]:
    """The folders of several names."""
    return map(FolderNames().take, names)


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
    properties = {"sample": str(int(batch.ids[number]))}
    if "confidence" in result.scores:
        properties |= {"rank": str(rank), "confidence": f"{float(result.scores['confidence'][number]):.4f}"}
    if result.latents is not None and result.latents.values.shape[2] >= each.nodes:
        codes = result.latents.codes[number].tolist()
        properties |= {f"latent_{slot}": each.node_name(code) for slot, code in enumerate(codes, 1)}
    mol = with_poses(each.ligand.mol, place[None])
    properties["stereo"] = "kept" if same_stereo(each.ligand.mol, mol) else "changed"
    return sdf_record(mol, each.ligand.name, properties)


def sdf_record(pose: Chem.Mol, name: str, properties: Mapping[str, str]) -> str:
    """One record of an SD file: the first conformer of ``pose``, titled ``name``."""
    titled = Chem.Mol(pose)
    titled.SetProp("_Name", " ".join(name.split()))
    data = "".join(f">  <{key}>\n{text}\n\n" for key, text in properties.items())
    return _mol_block(titled) + data + "$$$$\n"


def _mol_block(mol: Chem.Mol) -> str:
    large = mol.GetNumAtoms() > V2000_ATOMS
    try:
        return str(Chem.MolToMolBlock(mol, forceV3000=large))
    except Chem.KekulizeException:  # of a ligand that was read with aromatic bonds that have no Kekule structure
        return str(Chem.MolToMolBlock(mol, forceV3000=large, kekulize=False))
