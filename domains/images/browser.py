"""``disco latents``: a page to look through the codes of an image model, one HTML file that needs no network."""

import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from core.console import Device, Overrides, Quiet, say, start_logging
from core.errors import StorageError
from core.files import write_text
from core.pages import filled, inert_json, policy_hash

TEMPLATE = Path(__file__).with_suffix(".html")


def write_browser(contents: Mapping[str, Any], path: Path) -> Path:
    """Write the page. ``contents``: as ``domains.images.pictures.contents`` gives them. Raises StorageError."""
    template = TEMPLATE.read_text(encoding="utf-8")
    # The browser itself forbids all requests, and all styles and scripts but those of the template.
    policy = {"default-src": "'none'", "img-src": "data:", "base-uri": "'none'", "form-action": "'none'"}
    for element, text in re.findall(r"<(style|script)>(.*?)</\1>", template, re.DOTALL):
        policy[f"{element}-src"] = policy_hash(text)
    parts = {
        "policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "model": html.escape(str(contents["model"])),
        "data": inert_json(contents),
    }
    write_text(path, filled(template, parts))
    return path


def latents(
    model: Annotated[Path, typer.Argument(help="Run folder of 'disco train', or a model folder.")],
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page.")] = Path("latents.html"),
    per_code: Annotated[int, typer.Option(min=1, help="Samples per code.")] = 8,
    codes: Annotated[int, typer.Option(min=1, help="Codes per latent, the most frequent ones.")] = 16,
    images: Annotated[int, typer.Option(min=1, help="Real images to count the codes on, at most.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the sampler [default: the model's].")] = None,
    label: Annotated[int | None, typer.Option("--class", help="Class number [default: all in turn].")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per network call; changes nothing else.")] = 128,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Write a page that shows what every code of an image model's latents makes, how often it is used, and which codes
    are alike."""
    start_logging(quiet)
    if out.is_dir():
        raise StorageError(f"{out} is a folder: name the page, as in -o {out / 'latents.html'}")
    from core.pipeline import Pipeline, Request
    from core.registry import get_domain

    get_domain("images")  # says which packages are missing
    from domains.images import pictures

    pipeline = Pipeline.from_pretrained(model, device, overrides or ())
    request = Request(count=per_code, seed=seed, label=label, steps=steps, batch_size=batch_size)
    found = pictures.survey(pipeline, request, codes, images)
    say(f"page in {write_browser(pictures.contents(found, pipeline, request), out)}")
