"""``disco score``: the command."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from core.console import Device, Quiet, say, start_logging


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
        Path, typer.Option("--reference", help="Folder or .zip of real images, or EDM's .npz of Inception statistics.")
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
    values = evaluate_folder(images, reference, config, out, resolve_device(device))
    say(markdown_table({str(images): values}))
