"""Images of a model for measuring: made batch by batch, never all in memory."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import UInt8
from torch import Tensor

from core.errors import RequestError
from core.interfaces import Dataset
from core.latents import keep_all
from core.pipeline import Pipeline, Request
from core.types import Latents, Samples
from domains.images.write import to_bytes


@dataclass
class GeneratedImages:
    """``request.count`` images under latents from one source; ``nfe`` is known once they are made.

    latents: ``prior`` (as ``Pipeline.generate``, image for image), ``encoder`` (read off real images of ``dataset``,
    under their classes) or ``dropped``. Raises RequestError for latents that the model does not have.
    """

    pipeline: Pipeline
    request: Request
    latents: str = "prior"
    dataset: Dataset | None = None
    nfe: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        config = self.pipeline.config.latents
        if self.latents == "dropped" and config.drop == 0:
            raise RequestError("evaluation.latents: 'dropped' was asked for, and this model never saw dropped latents")
        if self.latents == "encoder" and "encoder" not in self.pipeline.networks:
            raise RequestError("evaluation.latents: 'encoder' was asked for, and this model has no encoder")

    def __iter__(self) -> Iterator[UInt8[Tensor, "n c h w"]]:
        pieces = self._from_data() if self.latents == "encoder" else self._requested()
        for batch, latents in pieces:
            state, self.nfe = self.pipeline.solve(batch, latents, self.request)
            yield to_bytes(state["x"])

    def _ranges(self) -> Iterator[range]:
        first, last, size = self.request.first, self.request.first + self.request.count, self.request.batch_size
        yield from (range(start, min(start + size, last)) for start in range(first, last, size))

    def _requested(self) -> Iterator[tuple[Samples, Latents | None]]:
        request, everything = self.request, self.pipeline.samples_of(self.request)
        # Latents are small, and some requests (shared ones) make sense for all samples together only.
        latents = self.pipeline.latents_for(request, everything) if self.latents == "prior" else None
        for numbers in self._ranges():
            piece = slice(numbers.start - request.first, numbers.stop - request.first)
            batch = everything.select(piece)
            yield batch, self._dropped(batch) if self.latents == "dropped" else _select(latents, piece)

    def _dropped(self, batch: Samples) -> Latents | None:
        """Latents whose content does not matter."""
        space = self.pipeline.space
        return None if space is None else keep_all(torch.zeros(batch.size, space.count, space.width)).dropped()

    def _from_data(self) -> Iterator[tuple[Samples, Latents | None]]:
        dataset, request = self.dataset, self.request
        if dataset is None:
            raise RequestError("latents of the encoder need real images to read")
        for numbers in self._ranges():
            # Evenly over the data, which often come sorted by class.
            real = dataset.load([(n - request.first) * len(dataset) // request.count for n in numbers], numbers)
            yield replace(real, fields=None), self.pipeline.encode(real, request.seed)


def _select(latents: Latents | None, piece: slice) -> Latents | None:
    return None if latents is None else latents.select(piece)
