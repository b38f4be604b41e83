"""What a user asks to dock: files in, complexes out."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, PositiveFloat, ValidationError, model_validator

from core.config import Section, SectionType
from core.errors import RequestError
from domains.docking.chemistry.files import file_stem
from domains.docking.chemistry.ligand import LigandFailure, read_coordinates, read_ligands
from domains.docking.chemistry.pocket import Around, Box, Pocket, Sphere
from domains.docking.chemistry.protein import read_protein
from domains.docking.complex import Complex, Receptor, make_complex
from domains.docking.config import QuirksConfig
from domains.docking.language import LanguageModel

logger = logging.getLogger("disco")
Triple = tuple[float, float, float]
WHOLE = (
    "%s: no pocket was given, and this model docks well into surroundings of binding sites only, which are not looked "
    "for here: give pocket= or center=, or use disco dock, which finds them"
)


def _numbers(value: Any) -> Any:
    """``1,2,3`` or ``[1, 2, 3]`` as numbers."""
    if not isinstance(value, str):
        return value
    try:
        numbers = tuple(float(part) for part in value.strip("[]() ").replace(",", " ").split())
    except ValueError:
        numbers = ()
    if len(numbers) != 3:
        raise ValueError("give three numbers, such as 1.5,20,-3")
    return numbers


# A pocket is one choice: one that is made leaves nothing of another that was there.
RIVALS = {"pocket": ("center", "radius", "size"), "center": ("pocket",), "radius": ("size",), "size": ("radius",)}


def overlaid(before: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with others that beat them, among which a pocket replaces the whole pocket."""
    dropped = {rival for name in given for rival in RIVALS.get(name, ())}
    return {**{name: value for name, value in before.items() if name not in dropped}, **given}


class Site(Section):
    """Where to dock. pocket: file of a reference ligand, around which the protein is kept up to ``margin`` Angstrom; or
    ``center`` with ``radius`` (sphere) or ``size`` (box). Nothing given: anywhere (blind docking)."""

    pocket: Path | None = None
    margin: PositiveFloat = 10.0
    center: Annotated[Triple | None, BeforeValidator(_numbers)] = None
    radius: PositiveFloat | None = None
    size: Annotated[Triple | None, BeforeValidator(_numbers)] = None

    @model_validator(mode="after")
    def _one_pocket(self) -> "Site":
        if self.center is None:
            if self.radius is not None or self.size is not None:
                raise ValueError("radius and size need a center")
        elif self.pocket is not None or (self.radius is None) == (self.size is None):
            raise ValueError("a pocket is a reference ligand, or a center with either a radius or a size: give one")
        return self

    @classmethod
    def parse(cls: type[SectionType], spec: Mapping[str, Any]) -> SectionType:
        """Values may be text, as from a command line. Raises RequestError that names what is wrong."""
        try:
            return cls.model_validate({k: str(v) if isinstance(v, Path) else v for k, v in spec.items()})
        except ValidationError as error:
            every = error.errors()
            first = next((e for e in every if e["type"] == "extra_forbidden"), every[0])
            name, known = ".".join(str(part) for part in first["loc"][:1]), ", ".join(cls.model_fields)
            what = {"extra_forbidden": f"docking takes no '{name}'; it takes: {known}", "missing": f"give the {name}"}
            reason = first["msg"].removeprefix("Value error, ")
            said = f"{name}: {reason}" if name else reason
            raise RequestError(what.get(first["type"], said)) from error

    def region(self) -> Pocket | None:
        """The pocket that was asked for. Raises RequestError for a reference ligand without coordinates."""
        if self.pocket is not None:
            return Around(read_coordinates(self.pocket), self.margin)
        if self.center is None:
            return None
        return Sphere(self.center, self.radius) if self.radius is not None else Box(self.center, self.size or (0, 0, 0))


class DockingRequest(Site):
    """One protein with one ligand or many.

    protein: PDB or mmCIF file; ligand: file (every record is one ligand) or SMILES; template: SMILES of a ligand whose
    file has no bond orders; where: see ``Site``.
    """

    protein: Path
    ligand: str
    template: str | None = None

    def complexes(
        self, quirks: QuirksConfig, language: LanguageModel | None = None, *, finder: bool = False
    ) -> list[Complex]:
        """All ligands with the protein, which is prepared once. What was changed on the way, and records that cannot be
        used, are logged; so is a whole protein where ``finder``, for a model that docks into sites that it first finds.
        Raises RequestError for a protein that cannot be used or where no ligand can."""
        ligands = read_ligands(self.ligand, self.template, raw_chirality=quirks.raw_chirality)
        pocket, whole = self.region(), read_protein(self.protein)
        if pocket is None and finder:
            logger.warning(WHOLE, self.protein.name)
        protein = whole if pocket is None else whole.crop(pocket)
        for note in protein.notes:
            logger.info("%s: %s", self.protein.name, note)
        receptor = Receptor.of(protein, language, whole)
        stem, found, failed = file_stem(self.protein), [], []
        for ligand in ligands:
            try:
                if isinstance(ligand, LigandFailure):
                    raise RequestError(str(ligand))
                name = stem if ligand.name == stem else f"{stem}_{ligand.name}"
                each = make_complex(name, receptor, ligand, turn_double=quirks.turn_double_bonds)
            except RequestError as error:
                failed.append(str(error))
                continue
            found.append(each)
            for note in each.ligand.notes:
                logger.info("%s: %s", ligand.name, note)
        if not found:
            raise RequestError(failed[0] if len(failed) == 1 else f"{self.ligand}: no ligand can be used: {failed[:1]}")
        for reason in failed:
            logger.warning("left out: %s", reason)
        return found
