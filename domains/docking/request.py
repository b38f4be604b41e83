"""What a user asks to dock: files in, complexes out."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import PositiveFloat, ValidationError, model_validator

from core.config import Section
from core.errors import RequestError
from domains.docking.chemistry.ligand import LigandFailure, read_ligand, read_ligands
from domains.docking.chemistry.pocket import Around, Box, Pocket, Sphere
from domains.docking.chemistry.protein import read_protein
from domains.docking.complex import Complex, Receptor, make_complex
from domains.docking.language import LanguageModel

logger = logging.getLogger("disco")
Triple = tuple[float, float, float]


class DockingRequest(Section):
    """One protein with one ligand or many.

    protein: PDB or mmCIF file; ligand: file (every record is one ligand) or SMILES; template: SMILES of a ligand whose
    file has no bond orders; pocket: file of a reference ligand, around which the protein is kept up to ``margin``
    Angstrom; or ``center`` with ``radius`` (sphere) or ``size`` (box).
    """

    protein: Path
    ligand: str
    template: str | None = None
    pocket: Path | None = None
    margin: PositiveFloat = 10.0
    center: Triple | None = None
    radius: PositiveFloat | None = None
    size: Triple | None = None

    @model_validator(mode="after")
    def _one_pocket(self) -> "DockingRequest":
        if self.center is None:
            if self.radius is not None or self.size is not None:
                raise ValueError("radius and size need a center")
        elif self.pocket is not None or (self.radius is None) == (self.size is None):
            raise ValueError("a pocket is a reference ligand, or a center with either a radius or a size")
        return self

    @staticmethod
    def parse(spec: Mapping[str, Any]) -> "DockingRequest":
        """Raises RequestError that names what is wrong."""
        try:
            return DockingRequest.model_validate({k: str(v) if k == "ligand" else v for k, v in spec.items()})
        except ValidationError as error:
            every = error.errors()
            first = next((e for e in every if e["type"] == "extra_forbidden"), every[0])
            name = ".".join(str(part) for part in first["loc"])
            known = ", ".join(DockingRequest.model_fields)
            what = {"extra_forbidden": f"docking takes no '{name}'; it takes: {known}", "missing": f"give the {name}"}
            raise RequestError(what.get(first["type"], f"docking: {name or 'request'}: {first['msg']}")) from error

    def region(self) -> Pocket | None:
        """The pocket that was asked for. Raises RequestError for a reference ligand without coordinates."""
        if self.pocket is not None:
            places = read_ligand(self.pocket).coordinates
            if places is None:
                raise RequestError(f"{self.pocket}: the reference ligand of the pocket has no 3-D coordinates")
            return Around(places, self.margin)
        if self.center is None:
            return None
        return Sphere(self.center, self.radius) if self.radius is not None else Box(self.center, self.size or (0, 0, 0))

    def complexes(self, language: LanguageModel | None = None) -> list[Complex]:
        """All ligands with the protein, which is prepared once. What was changed on the way, and records that cannot be
        used, are logged. Raises RequestError for a protein that cannot be used or where no ligand can."""
        whole, pocket = read_protein(self.protein), self.region()
        protein = whole if pocket is None else whole.crop(pocket)
        for note in protein.notes:
            logger.info("%s: %s", self.protein.name, note)
        receptor = Receptor.of(protein, language, whole)
        stem, found, failed = _stem(self.protein), [], []
        for ligand in read_ligands(self.ligand, self.template):
            try:
                if isinstance(ligand, LigandFailure):
                    raise RequestError(str(ligand))
                found.append(make_complex(f"{stem}_{ligand.name}", receptor, ligand))
            except RequestError as error:
                failed.append(str(error))
                logger.warning("left out: %s", error)
                continue
            for note in found[-1].ligand.notes:
                logger.info("%s: %s", ligand.name, note)
        if not found:
            raise RequestError(failed[0] if failed else f"{self.ligand}: has no ligand")
        return found


def _stem(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    return Path(name).stem or "complex"
