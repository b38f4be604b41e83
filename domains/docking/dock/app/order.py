"""From the fields of the form to jobs that can be docked, or to words beside the field that is wrong.

Nothing that the form sends is ever taken for a path: texts and uploads alike are written to files of our own, and those
are read. The names of uploads become labels, and, made harmless, the last part of the names of these files.
"""

import gzip
import logging
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from starlette.datastructures import FormData, UploadFile

from core.errors import DiscoError, RequestError, StorageError
from core.files import storage_errors
from domains.docking.dock.app.labels import Labels
from domains.docking.dock.jobs import Failure, Job, jobs_of_ligands
from domains.docking.dock.settings import DockSettings
from domains.docking.dock.worker import Receptors, StageError
from domains.docking.write import folder_name

logger = logging.getLogger("disco")
MAX_POSES = MAX_STEPS = 100
MAX_LIGANDS = 100  # records of one file; libraries are for ``disco dock``
WHOLE = {"poses": (1, MAX_POSES), "steps": (1, MAX_STEPS), "seed": (0, 2**31 - 1)}
SWITCHES = ("check", "minimize", "trajectory")
SITES = {"anywhere": (), "ligand": ("margin",), "sphere": ("center", "radius"), "box": ("center", "size")}
PASTED = {"protein": "pasted-protein", "ligand": "pasted-ligand.smi", "pocket": "pasted-pocket"}
GZIP = b"\x1f\x8b"  # what such files start with
FORMATS = ": give SMILES or InChI, or the text or file of an SDF or MOL2"
UNPACKED = 10  # times the limit of an upload that a gzip file may unpack to


class FormError(Exception):
    """errors: what is wrong, by field of the form."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__(str(errors))
        self.errors = dict(errors)


@dataclass(frozen=True, eq=False)
class Order:
    """A form that can be docked. title: in words; ligands: how many are to be docked, at least one; jobs: those, and
    what cannot be docked."""

    title: str
    ligands: int
    jobs: tuple[Job | Failure, ...]
    settings: DockSettings
    labels: Labels


def read_order(form: FormData, folder: Path, max_bytes: int, raw_chirality: bool = False) -> Order:
    """Store the files of a form in ``folder`` (WORK/ID/inputs) and read them.

    Raises FormError for all that the user can mend; StorageError.
    """
    plain, errors = _settings_of(form)
    site = str(form.get("site") or "anywhere")
    wanted = ("protein", "ligand", "pocket") if site == "ligand" else ("protein", "ligand")
    files: dict[str, Path] = {}
    names: dict[Path, str] = {}
    for field in wanted:
        try:
            files[field], label = _store(field, form.getlist(field), folder / field, max_bytes)
            names[files[field]] = label
        except RequestError as error:
            errors[field] = str(error)
    if errors:
        raise FormError(errors)
    labels = Labels(names, [folder.parents[1]])
    if "pocket" in files:
        plain["pocket"] = str(files["pocket"])
    try:
        settings = DockSettings.parse(plain)
    except RequestError as error:
        field, _, reason = str(error).partition(": ")
        raise FormError({field: reason} if field in plain else {"site": str(error)}) from error
    template = str(form.get("template") or "").strip() or None
    jobs = _jobs(files, settings, template, raw_chirality, labels)
    with _field("protein", labels):
        Receptors(None).get(files["protein"], settings.site)
    usable = [job for job in jobs if isinstance(job, Job)]
    ligand = usable[0].ligand.name if len(jobs) == 1 else f"{len(jobs)} ligands"
    return Order(f"{ligand} into {names[files['protein']]}", len(usable), jobs, settings, labels)


def _settings_of(form: FormData) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings as the form has them, still without files, and what is wrong with the numbers."""
    errors = {}
    site = str(form.get("site") or "anywhere")
    if site not in SITES:
        errors["site"] = f"choose one of {', '.join(SITES)}"
    given = {name: str(form.get(name) or "").strip() for name in (*WHOLE, *SITES.get(site, ()))}
    for name in SITES.get(site, ()):
        if not given[name] and name != "margin":
            errors[name] = "give this for the pocket, in Angstrom"
    for name, (low, high) in WHOLE.items():
        text = given[name]
        if text and not (text.isascii() and text.isdigit() and low <= int(text[:12]) <= high):
            errors[name] = f"give a whole number from {low} to {high}"
    for name in ("margin", "radius"):
        if given.get(name) and not _is_length(given[name]):
            errors[name] = "give a length in Angstrom, more than 0 and at most 1000"
    switches = {name: form.get(name) is not None for name in SWITCHES}
    return {**{name: text for name, text in given.items() if text}, **switches}, errors


def _is_length(text: str) -> bool:
    try:
        return 0 < float(text) <= 1000
    except ValueError:
        return False


def _store(field: str, values: list[UploadFile | str], folder: Path, max_bytes: int) -> tuple[Path, str]:
    """Write the one upload or text of a field to a file; the file and its label. Raises RequestError, StorageError."""
    uploads = [value for value in values if isinstance(value, UploadFile) and (value.filename or value.size)]
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    if len(uploads) + len(texts) != 1:
        raise RequestError("give a file or a text, not both" if uploads or texts else "choose a file, or paste a text")
    content = uploads[0].file.read() if uploads else texts[0].encode()
    label = PurePosixPath((uploads[0].filename or "").replace("\\", "/")).name if uploads else PASTED[field]
    if content.startswith(GZIP):
        content, label = _unpacked(content, UNPACKED * max_bytes), label.removesuffix(".gz")
    path = folder / folder_name(label or PASTED[field])
    with storage_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return path, path.name if uploads else "the pasted text"


def _unpacked(content: bytes, limit: int) -> bytes:
    """All members of a gzip file. Raises RequestError where they are damaged, larger than the limit, or gzip again,
    which the readers would unpack without a limit."""
    try:
        plain = gzip.GzipFile(fileobj=BytesIO(content)).read(limit + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RequestError(f"the gzip file is damaged or was cut short ({error})") from error
    if len(plain) > limit:
        raise RequestError(f"is larger than {limit / 1e6:g} MB when unpacked")
    if plain.startswith(GZIP):
        raise RequestError("is gzipped twice: unpack it once")
    return plain


def _jobs(
    files: Mapping[str, Path], settings: DockSettings, template: str | None, raw_chirality: bool, labels: Labels
) -> tuple[Job | Failure, ...]:
    """Raises FormError where no ligand can be used, or there are too many."""
    with _field("ligand", labels):
        found = jobs_of_ligands(
            files["protein"], str(files["ligand"]), template=template, site=settings.site, raw_chirality=raw_chirality
        )
        jobs = tuple(islice(found, MAX_LIGANDS + 1))
    if len(jobs) > MAX_LIGANDS:
        raise FormError({"ligand": f"more than {MAX_LIGANDS} ligands: dock libraries with 'disco dock'"})
    failed = [job for job in jobs if isinstance(job, Failure)]
    if len(failed) == len(jobs):
        more = f" (and {len(failed) - 1} more that cannot be used)" if len(failed) > 1 else ""
        hint = FORMATS if failed[0].reason.startswith("cannot parse SMILES") else ""
        raise FormError({"ligand": said(failed[0].reason, labels) + hint + more})
    return jobs


@contextmanager
def _field(field: str, labels: Labels) -> Iterator[None]:
    """What cannot be read becomes a word beside the field that gave it."""
    try:
        yield
    except StorageError:
        raise
    except DiscoError as error:
        reason = said(str(error), labels)
        stage = error.stage if isinstance(error, StageError) else field
        field = {"pocket": "site"}.get(stage, "template" if reason.startswith("template ") else field)
        raise FormError({field: reason.removeprefix("pocket: ")}) from error
    except Exception as error:  # the readers meet files that nobody has thought of
        logger.exception("the %s cannot be read", field)
        reason = f"cannot be read (unexpected {type(error).__name__}); please report this input"
        raise FormError({field: reason}) from error


def said(text: str, labels: Labels) -> str:
    """A message beside a field, which needs no name of the file in front."""
    text = labels.hide(text)
    for label in labels.files.values():
        text = text.removeprefix(f"{label}: ")
    return text
