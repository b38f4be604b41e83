"""``disco data``: the command."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from core.console import Quiet, say, start_logging


class Action(StrEnum):
    """What to do."""

    prepare = "prepare"
    verify = "verify"
    fetch = "fetch"


class Crop(StrEnum):
    """How images become square, by EDM's names."""

    middle = "center-crop"
    dhariwal = "center-crop-dhariwal"


Source = Annotated[
    str,
    typer.Argument(
        help="prepare, verify: a folder, .zip, .npz or IDX file, or 'digits'. fetch: cifar10, mnist or fashion-mnist."
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="prepare: the archive. fetch: the folder [default: NAME].")
]
Split = Annotated[str | None, typer.Option(help="train, val or all [default: prepare train, verify all].")]
Resolution = Annotated[int | None, typer.Option(min=1, help="Height and width to bring images to.")]
Channels = Annotated[int | None, typer.Option(min=1, max=3, help="1 = grey, 3 = RGB [default: as the source].")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many images, spread over the source.")]
Skip = Annotated[bool, typer.Option("--skip-damaged", help="Leave damaged images out instead of giving up.")]
From = Annotated[Path | None, typer.Option("--from", help="fetch: the file, or a folder of the files, at hand.")]


def data(
    action: Action,
    source: Source,
    out: Out = None,
    split: Split = None,
    resolution: Resolution = None,
    crop: Annotated[Crop, typer.Option(help="How they become square.")] = Crop.middle,
    channels: Channels = None,
    limit: Limit = None,
    skip_damaged: Skip = False,
    at_hand: From = None,
    quiet: Quiet = False,
) -> None:
    """Prepare images as one archive in EDM's format, verify a source, or fetch a public data set.

    prepare SOURCE -o OUT.zip; verify SOURCE; fetch NAME.
    """
    start_logging(quiet)
    from core.errors import ConfigError

    if action is Action.fetch:
        from domains.images.data.fetch import fetch

        say(f"{source} is in {fetch(source, out or Path(source), at_hand)}")
        return
    if channels == 2:
        raise ConfigError("--channels: 1 for grey or 3 for RGB")
    from core.registry import get_domain

    get_domain("images")  # says which packages are missing
    from domains.images.data.prepare import Preparation, prepare, verify_path
    from domains.images.data.sources import open_source

    if action is Action.verify:
        say(f"{source}: {verify_path(source, split or 'all', quiet).summary()}: all in order")
        return
    if out is None or out.suffix != ".zip":
        raise ConfigError("prepare needs an archive to write: add -o NAME.zip")
    # Sources without a test set are prepared whole: what is held out is chosen in training.
    found = open_source(source, split or "train", channels, val_share=0.1 if split else 0.0)
    options = Preparation(resolution, crop.value, channels, limit, skip_damaged, quiet)
    say(f"{out}: {prepare(found, out, options).summary()}")
