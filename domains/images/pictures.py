"""Pictures that show what an image model and its latents do (DisCo-Diff sections 3.3 and 4.1, appendix G)."""

import base64
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from core.errors import DataError, RequestError
from core.flat import FlatDomain
from core.latents import CodeUsage, code_usage
from core.pipeline import Pipeline, Request
from core.reports import real_batch
from core.types import Latents, Samples
from domains.images.domain import COLUMNS, enlargement
from domains.images.networks.tokens import LatentTokens
from domains.images.write import as_image, grid, save_png, to_bytes

logger = logging.getLogger("disco")
ROWS = 4
NEAREST = 4
ADVICE = {
    "none": "this model has no latents: 'disco sample' and 'disco diagnose' show what it makes",
    "gaussian": "the latents of this model are numbers, not codes: 'disco diagnose' draws what sharing and swapping "
    "them does",
}


def image_domain(pipeline: Pipeline) -> FlatDomain:
    """The domain of an image model. Raises RequestError for a model whose samples are no images."""
    domain = pipeline.domain
    if not isinstance(domain, FlatDomain) or len(domain.shapes.get("x", ())) != 3:
        raise RequestError(f"this is a '{domain.name}' model, which makes no images: use disco diagnose")
    return domain


def group_count(pipeline: Pipeline) -> int:
    """Groups that the latents enter in, by resolution; 1 in a model without a hierarchy (and without latents)."""
    found = (module for module in pipeline.denoiser.modules() if isinstance(module, LatentTokens))
    return max((len(tokens.embeddings) for tokens in found), default=1)


def displayable(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
    """One channel as grey, three as they are, two as red and green, the first three of more."""
    if images.shape[1] == 2:
        return torch.cat([images, torch.full_like(images[:, :1], -1)], dim=1)
    return images[:, :3]


def swapped(a: Latents, b: Latents, slots: slice) -> list[Latents]:
    """a; a with those of b in ``slots``; b with those of a there; b."""

    def mixed(own: Latents, other: Latents) -> Latents:
        values = own.values.clone()
        values[:, slots] = other.values[:, slots]
        return replace(own, values=values)

    return [a, mixed(a, b), mixed(b, a), b]


@dataclass(frozen=True)
class Sheets:
    """Sheets of ``ROWS`` rows. In each but the first, a column is one class (where there are any) and one noise."""

    pipeline: Pipeline
    columns: int
    seed: int = 0

    def conditions(self, row: int = 0) -> Samples:
        """Sample numbers and classes of a row of new samples. With more classes than columns they lie spread out."""
        domain, first = image_domain(self.pipeline), row * self.columns
        labels = [column * domain.classes // self.columns for column in range(self.columns)]
        numbers = range(first, first + self.columns)
        return domain.request(numbers, **({"label": torch.tensor(labels)} if domain.classes else {}))

    @cached_property
    def drawn(self) -> list[Latents | None]:
        """Per row of new samples, their latents from the prior (None in a model without)."""
        request = Request(seed=self.seed)
        return [self.pipeline.latents_for(request, self.conditions(row)) for row in range(ROWS)]

    def row(self, latents: Latents | None, row: int = 0) -> Tensor:
        """[columns, C, H, W] samples of these latents, under the classes and the noise of a row of new samples."""
        state, _ = self.pipeline.solve_in_pieces(self.conditions(row), latents, Request(seed=self.seed))
        images: Tensor = state["x"]
        return images

    def samples(self) -> Tensor:
        """New samples everywhere."""
        return torch.cat([self.row(latents, row) for row, latents in enumerate(self.drawn)])

    def rows(self, latents: Sequence[Latents]) -> Tensor:
        return torch.cat([self.row(chosen) for chosen in latents])

    def shared(self, latents: Sequence[Latents]) -> list[Latents]:
        """Row r: the latents of new sample number r, in all columns."""
        everything = Latents.concatenate(list(latents))
        return [everything.select(torch.full((self.columns,), row)) for row in range(ROWS)]

    def resampled(self, latents: Latents, kept: int) -> list[Latents]:
        """The latents as they are; then rows with their first ``kept`` codes and new other ones from the prior."""
        codes = latents.codes.clone()
        codes[:, kept:] = -1
        drawn = [
            self.pipeline.latents_for(Request(seed=self.seed + row, codes=codes), self.conditions())
            for row in range(1, ROWS)
        ]
        return [latents, *(chosen for chosen in drawn if chosen is not None)]


def draw(
    pipeline: Pipeline, out: Path, columns: int | None = None, scale: int | None = None, seed: int = 0
) -> list[Path]:
    """Write sheets of pictures as PNG files into ``out``; returns the files.

    samples: new ones, a class per column; shared-latents: every row one latent vector; swapped-latents: latents A, A
    with the second half of B, B with that of A, B. Group-hierarchical models (section 3.3) have in place of the last:
    swapped-group-G, the same for group G; resampled-after-group-G: rows with groups 1 to G of the first row, the other
    groups from the prior. Models without latents get the first sheet only.

    columns: None is one per class, at most 10; scale: enlargement of a pixel, None makes images easily visible.
    Raises RequestError for models of other things than images, and for models whose latents have no prior yet.
    """
    domain = image_domain(pipeline)
    sheets = Sheets(pipeline, columns or min(COLUMNS, domain.classes or COLUMNS), seed)
    scale = scale or enlargement(domain.shapes["x"][-1])
    files = []

    def save(name: str, images: Tensor) -> None:
        files.append(save_png(grid(to_bytes(displayable(images)), sheets.columns), out / f"{name}.png", scale))
        logger.info("drew %s", files[-1])

    save("samples", sheets.samples())
    latents = [chosen for chosen in sheets.drawn if chosen is not None]
    if pipeline.space is None or not latents:
        return files
    save("shared-latents", sheets.rows(sheets.shared(latents)))
    groups, count, (a, b) = group_count(pipeline), pipeline.space.count, latents[:2]
    if groups == 1:
        if count > 1:
            save("swapped-latents", sheets.rows(swapped(a, b, slice(count // 2, count))))
        return files
    size = count // groups
    for group in range(groups):
        save(f"swapped-group-{group + 1}", sheets.rows(swapped(a, b, slice(group * size, (group + 1) * size))))
    for kept in range(1, groups if pipeline.space.discrete else 1):
        save(f"resampled-after-group-{kept}", sheets.rows(sheets.resampled(a, kept * size)))
    return files


@dataclass(frozen=True)
class Survey:
    """What every code of every latent makes.

    usage: of the codes; source: what that was counted on; labels: class of every picture of a code, None without
    classes; free: pictures [N, C, H, W] with all latents from the prior; pictures: by (latent, code) the same noise and
    classes, with this code given and the other latents from the prior.
    """

    usage: CodeUsage
    source: str
    labels: tuple[int, ...] | None
    free: UInt8[Tensor, "n c h w"]
    pictures: Mapping[tuple[int, int], UInt8[Tensor, "n c h w"]]

    def codes(self, latent: int) -> list[int]:
        """The codes of a latent that were drawn, the most frequent first."""
        return [code for slot, code in self.pictures if slot == latent]

    def nearest(self, latent: int, count: int = NEAREST) -> dict[int, list[tuple[int, float]]]:
        """Per code of a latent the codes with the most similar pictures and how far they are: root mean square
        difference of pixels, as a share of the range from black to white."""
        codes = self.codes(latent)
        flat = torch.stack([self.pictures[latent, code] for code in codes]).flatten(1).double() / 255
        apart = torch.stack([(flat - one).square().mean(1).sqrt() for one in flat])
        order = apart.argsort(dim=1, stable=True).tolist()
        return {
            codes[i]: [(codes[j], float(apart[i, j])) for j in order[i] if j != i][:count] for i in range(len(codes))
        }


def survey(pipeline: Pipeline, request: Request = Request(count=8), codes: int = 16, images: int = 2000) -> Survey:
    """Draw samples under the most frequent codes of every latent.

    request: count is the number of samples per code, which are the same sample numbers for all; seed, first, label,
    steps, sampler, guidance, prior temperature and batch_size act as in ``Pipeline.generate``; codes: at most so many
    per latent; images: at most so many to count the codes on. Codes that never occur are left out. Raises RequestError
    for a model without discrete latents or whose latents have no prior yet.
    """
    domain, space = image_domain(pipeline), pipeline.space
    kind = pipeline.config.latents.kind
    if space is None or not space.discrete:
        raise RequestError(f"there are no codes to look at: {ADVICE[kind]}")
    numbers = range(request.first, request.first + request.count)
    alone = domain.request(numbers, **({} if request.label is None else {"label": request.label}))
    free = _solved(pipeline, alone, replace(request, codes=None))  # first of all, so that a missing prior is told soon
    usage, source = _usage(pipeline, request, images)
    pictures: dict[tuple[int, int], Tensor] = {}
    for slot, frequency in enumerate(usage.frequency):
        order = frequency.argsort(descending=True, stable=True)[:codes]
        shown = [code for code in order.tolist() if frequency[code] > 0]
        wanted = torch.full((len(shown), request.count, space.count), -1)
        wanted[:, :, slot] = torch.tensor(shown)[:, None]
        batch = alone.select(torch.arange(request.count).repeat(len(shown)))
        drawn = _solved(pipeline, batch, replace(request, codes=wanted.flatten(0, 1)))
        pictures |= {(slot, code): part for code, part in zip(shown, drawn.split(request.count), strict=True)}
        logger.info("latent %d of %d: drew %d codes", slot + 1, space.count, len(shown))
    labels = None if alone.label is None else tuple(alone.label.tolist())
    return Survey(usage, source, labels, free, pictures)


def _solved(pipeline: Pipeline, batch: Samples, request: Request) -> UInt8[Tensor, "n c h w"]:
    latents = pipeline.latents_for(request, batch)
    state, _ = pipeline.solve_in_pieces(batch, latents, request)
    return to_bytes(displayable(state["x"]))


def _usage(pipeline: Pipeline, request: Request, images: int) -> tuple[CodeUsage, str]:
    """Code usage: of the encoder on held-out data, else on training data, else of the prior; and on what."""
    width = pipeline.config.latents.codes
    for split in ("val", "train") if "encoder" in pipeline.networks else ():
        try:
            batch = real_batch(pipeline, images, split)
        except DataError as error:
            logger.info("codes are not counted on %s data: %s", split, error)
            continue
        parts = torch.arange(batch.size).split(request.batch_size)
        codes = torch.cat([pipeline.encode(batch.select(part), request.seed).codes.cpu() for part in parts])
        return code_usage(codes, width), f"{batch.size} real images ({split}), read by the encoder"
    drawn = pipeline.latents_for(replace(request, codes=None), image_domain(pipeline).request(range(images)))
    assert drawn is not None
    return code_usage(drawn.codes.cpu(), width), f"{images} draws of the prior"


def png_address(picture: UInt8[Tensor, "c h w"]) -> str:
    """A picture as a data URI."""
    buffer = io.BytesIO()
    as_image(picture.numpy()).save(buffer, format="png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def contents(found: Survey, pipeline: Pipeline, request: Request) -> dict[str, Any]:
    """What ``domains.images.browser.write_browser`` puts into a page: plain numbers and text."""
    groups, space = group_count(pipeline), found.usage.frequency.shape
    names = [f"sample {request.first + i}" for i in range(len(found.free))]
    if found.labels is not None:
        names = [f"class {label}" for label in found.labels]
    latents = []
    for slot in range(space[0]):
        near = found.nearest(slot)
        codes = [
            {"code": code, "pictures": list(map(png_address, found.pictures[slot, code])), "near": near[code]}
            for code in found.codes(slot)
        ]
        latents.append(
            {
                "group": slot * groups // space[0] + 1 if groups > 1 else None,
                "perplexity": float(found.usage.perplexity[slot]),
                "frequency": [round(share, 6) for share in found.usage.frequency[slot].tolist()],
                "codes": codes,
            }
        )
    return {
        "model": pipeline.name or pipeline.domain.name,
        "facts": [
            ["Latents", f"{space[0]} with {space[1]} codes each"],
            ["Codes counted on", found.source],
            ["Steps", str(pipeline.steps_of(request))],
            ["Seed", str(request.seed)],
        ],
        "columns": names,
        "free": list(map(png_address, found.free)),
        "latents": latents,
    }
