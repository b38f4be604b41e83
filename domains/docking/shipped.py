"""The docking models that come with the package, each a model folder with a card (README.md)."""

from pathlib import Path

from core.checkpoint import MANIFEST
from core.errors import CheckpointError

WEIGHTS = Path(__file__).parent / "weights"
NAMES = ("disco", "plain")  # with and without latents; the first is what docks where nothing else is asked for
CARD = "README.md"
TRAINED_ON = "about 1,100 complexes"
NO_WEIGHTS = (
    "no docking model: this installation lacks the weights that belong to it. Install disco-diff again, or give "
    "--model (or set DISCO_DOCKING_MODEL) a folder that 'disco train experiments/docking/...' or 'disco convert' made"
)


def shipped(name: str = NAMES[0]) -> Path:
    """Folder of a model that comes with the package: ``Pipeline.from_pretrained(shipped())``.

    Raises CheckpointError for an unknown name, and where the installation lacks the weights.
    """
    if name not in NAMES:
        raise CheckpointError(f"no docking model '{name}' comes with the package; there are: {', '.join(NAMES)}")
    folder = WEIGHTS / name
    if not (folder / MANIFEST).is_file():
        raise CheckpointError(f"{folder}: {NO_WEIGHTS}")
    return folder


def name_of(folder: Path) -> str:
    """What to give to get this model again: its name where it is shipped, which holds on other machines too."""
    return folder.name if folder.parent == WEIGHTS else str(folder)
