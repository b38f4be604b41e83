"""What docking one complex gave: ranked poses with everything that is known of them, in memory and as files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from rdkit import Chem

from core.errors import RequestError
from core.files import storage_errors, write_text
from domains.docking.chemistry.pdb_block import pdb_block
from domains.docking.complex import Complex
from domains.docking.dock.record import REPORT, RESULT, SCHEMA
from domains.docking.dock.trajectory import trajectory_pdb
from domains.docking.metrics.poses import with_poses
from domains.docking.write import sdf_record

OPTIONAL = ("site", "checks", "pb_valid", "minimized", "rescores")


@dataclass(frozen=True, eq=False)
class DockedPose:
    """One pose. The fields are those of result.json, which docs/dock.md lists.

    positions: [n, 3] heavy atoms of the ligand, Angstrom, in the frame of the protein's file; sample: its number in the
    order sampled, from 1; confidence: logit of the ranking model, comparable within one complex only, None where the
    model has none; confidence_band: the same in a word; latents: the residue or atom that each latent names; clashes:
    ligand atoms that overlap the protein; strain: kcal/mol; flags: what looks wrong, in words; frames: [S + 1, n, 3]
    the way here in S steps, where it was asked for, with one more where the pose was minimised; site: the predicted
    binding site that it was docked into (rank, probability, centre), None where none was looked for.
    """

    rank: int
    sample: int
    positions: Float64[np.ndarray, "n 3"]
    confidence: float | None
    confidence_band: str | None
    latents: tuple[Mapping[str, Any], ...]
    stereo: str
    protein_distance: float | None
    self_distance: float | None
    clashes: int
    strain: float | None
    flags: tuple[str, ...]
    site: Mapping[str, Any] | None = None
    checks: Mapping[str, bool] | None = None
    pb_valid: bool | None = None
    minimized: Mapping[str, Any] | None = None
    rescores: Mapping[str, float | None] | None = None
    frames: Float64[np.ndarray, "s n 3"] | None = None

    def record(self) -> dict[str, Any]:
        """For JSON: everything but the coordinates."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("positions", "frames")}
        return {name: value for name, value in values.items() if name not in OPTIONAL or value is not None}

    def properties(self) -> dict[str, str]:
        """For an SD record: one line of text per figure."""
        latents = {f"latent_{latent['slot']}": latent["name"] for latent in self.latents}
        minimized = {f"minimized_{name}": value for name, value in (self.minimized or {}).items()}
        site = {f"site_{name}": value for name, value in (self.site or {}).items() if name != "centre"}
        known = {
            "rank": self.rank, "sample": self.sample, "confidence": self.confidence,
            "confidence_band": self.confidence_band, **latents, **site, "stereo": self.stereo, "clashes": self.clashes,
            "strain": self.strain,
            "flags": ", ".join(self.flags) or "none", "pb_valid": self.pb_valid, **minimized, **(self.rescores or {}),
        }  # fmt: skip
        return {name: _text(value) for name, value in known.items() if value is not None}


@dataclass(frozen=True, eq=False, repr=False)
class DockingResult:
    """Ranked poses of one complex. about: the other entries of result.json (protein, ligand, pocket, model, settings);
    notes: what happened on the way; seconds: time in the networks."""

    id: str
    complex: Complex
    poses: tuple[DockedPose, ...]
    about: Mapping[str, Any]
    seconds: float
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        best = self.poses[0]
        ranked = "not ranked" if best.confidence is None else f"best confidence {best.confidence:.2f}"
        return f"DockingResult({self.id}: {len(self.poses)} poses, {ranked}, flags: {', '.join(best.flags) or 'none'})"

    def mol(self, rank: int = 1) -> Chem.Mol:
        """The ligand in the pose of this rank. Raises RequestError where there is none."""
        for pose in self.poses:
            if pose.rank == rank:
                return with_poses(self.complex.ligand.mol, pose.positions[None])
        raise RequestError(f"{self.id} has no pose of rank {rank}: its ranks are 1 to {len(self.poses)}")

    def sdf(self, rank: int | None = None) -> str:
        """Text of an SD file: one pose, or all in the order of their ranks."""
        chosen = [pose for pose in self.poses if rank in (None, pose.rank)]
        model, settings = self.about["model"]["name"], self.about["settings"]
        tail = {"seed": str(settings["seed"]), "model": str(model)}
        ligand = self.complex.ligand
        return "".join(sdf_record(self.mol(p.rank), ligand.name, {**p.properties(), **tail}) for p in chosen)

    def to_frame(self) -> Any:
        """A pandas DataFrame with one row per pose."""
        import pandas as pd

        rows = []
        for pose in self.poses:
            record = pose.record()
            checks, latents = record.pop("checks", {}), record.pop("latents")
            minimized, rescores = record.pop("minimized", {}), record.pop("rescores", {})
            record["flags"] = ", ".join(record["flags"])
            rows.append(
                {"id": self.id, **record, **{f"latent_{latent['slot']}": latent["name"] for latent in latents},
                 **{f"minimized_{name}": value for name, value in minimized.items()}, **rescores, **checks}
            )  # fmt: skip
        return pd.DataFrame(rows)

    def view(self, rank: int = 1, width: int = 720, height: int = 480) -> Any:
        """The pose in its protein as a py3Dmol view, which notebooks show. Raises RequestError without py3Dmol."""
        try:
            import py3Dmol
        except ImportError as error:
            raise RequestError("views need py3Dmol: pip install 'disco-diff[notebook]'") from error
        view = py3Dmol.view(width=width, height=height)
        view.addModel(pdb_block(self.complex.receptor.whole), "pdb")
        view.setStyle({"cartoon": {"color": "spectrum"}})
        view.addModel(Chem.MolToMolBlock(self.mol(rank), kekulize=False), "sdf")
        view.setStyle({"model": 1}, {"stick": {}})
        view.zoomTo({"model": 1})
        return view

    def save(self, folder: Path | str) -> Path:
        """Write protein.pdb, poses, result.json and report.html into a folder; returns the report. StorageError."""
        from domains.docking.dock.report import write_report

        folder = Path(folder)
        write_text(folder / "protein.pdb", pdb_block(self.complex.receptor.whole))
        self.write(folder, "protein.pdb")
        return write_report([folder], folder / REPORT)

    def write(self, folder: Path, protein_file: str, **more: Any) -> dict[str, Any]:
        """Write rank1.sdf ..., poses.sdf, trajectories and, last, result.json: where it is, the others are complete.

        protein_file: where the protein lies, seen from the folder; more: further entries of result.json, whose content
        is returned. Files of an earlier run are taken away first. Raises StorageError.
        """
        clear(folder)
        files = []
        for pose in self.poses:
            files.append({"file": f"rank{pose.rank}.sdf"})
            write_text(folder / f"rank{pose.rank}.sdf", self.sdf(pose.rank))
            if pose.frames is not None:
                files[-1]["trajectory"] = f"rank{pose.rank}_reverseprocess.pdb"
                write_text(folder / files[-1]["trajectory"], trajectory_pdb(self.complex.ligand.mol, pose.frames))
        write_text(folder / "poses.sdf", self.sdf())
        about = {**self.about, "protein": {**self.about["protein"], "file": protein_file}}
        poses = [{**pose.record(), **names} for pose, names in zip(self.poses, files, strict=True)]
        record = {
            "schema": SCHEMA, "id": self.id, **more, **about, "seconds": round(self.seconds, 3),
            "notes": list(self.notes), "poses": poses,
        }  # fmt: skip
        write_text(folder / RESULT, json.dumps(record, allow_nan=False, indent=1) + "\n")
        return record


def clear(folder: Path) -> None:
    """Take away the files of an earlier result, result.json first, so that no mixture can look complete."""
    with storage_errors(folder):
        for path in [folder / RESULT, folder / "poses.sdf", *folder.glob("rank*.sdf"), *folder.glob("rank*.pdb")]:
            path.unlink(missing_ok=True)


def _text(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else " ".join(str(value).split())
