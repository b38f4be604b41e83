"""``disco score``: the command."""

import zipfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.console import Device, Quiet, say, start_logging

if TYPE_CHECKING:
    from core.interfaces import Dataset


class Features(StrEnum):
    """Feature spaces."""

    inception = "inception"
    efficientnet_lite0 = "efficientnet_lite0"
    pixels = "pixels"


Chosen = Annotated[list[Features] | None, typer.Option("--features", help="May be repeated.", show_default=False)]
Weights = Annotated[
    str, typer.Option("--inception-weights", help="File of the Inception network [default: DISCO_INCEPTION_WEIGHTS].")
]


def score(
    images: Annotated[Path, typer.Argument(help="Folder or .zip of generated images.")],
    reference: Annotated[
        Path,
        typer.Option(
            "--reference",
            help="Real images: folder, .zip, .npz, CIFAR-10 or IDX files; or EDM's .npz of Inception statistics.",
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for metrics.json and metrics.md.")] = None,
    features: Chosen = None,
    inception_weights: Weights = "",
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Measure images that were made by any program against real ones: Frechet and kernel distance, precision, recall.

    Every figure is named by its feature space and number of images; only fid_inception_50k is FID as papers give it.
    """
    start_logging(quiet)
    from core.training.distributed import resolve_device
    from domains.images.evaluation.config import ImageEvaluationConfig
    from domains.images.evaluation.report import evaluate_folder, markdown_table

    names = [each.value for each in features or [Features.efficientnet_lite0]]
    config = ImageEvaluationConfig.model_validate({"extractors": names, "inception_weights": inception_weights})
    values = evaluate_folder(images, real_images(reference), config, out, resolve_device(device))
    say(markdown_table({str(images): values}))


def real_images(reference: Path) -> "Path | Dataset":
    """Arrays of images (npz, IDX, CIFAR-10) as a data set, of the training images where test images are apart; what
    else there is, image files or statistics, as its path. Raises DataError for arrays that cannot be read."""
    from domains.images.data import ImageDataset, open_source
    from domains.images.data.sources import array_splits

    packed = reference.suffix == ".npz"
    if packed and _statistics(reference):
        return reference
    splits = array_splits(reference) if reference.exists() else {"all"} if packed else ()
    if not splits:
        return reference
    return ImageDataset(open_source(reference, "train" if "train" in splits else "all"), labels=False)


def _statistics(path: Path) -> bool:
    """Whether an npz file holds mean and covariance; False for one that cannot be read, which is told on opening."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "mu.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False
