"""Settings of the evaluation of image generators."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from core.config import Section

ExtractorName = Literal["inception", "efficientnet_lite0", "pixels"]
Number = Annotated[int, Field(ge=2)]


class ImageEvaluationConfig(Section):
    """``disco evaluate`` for images.

    extractors: feature spaces to measure in; samples: generated images; inception_weights: file of the Inception
    network, empty: where ``DISCO_INCEPTION_WEIGHTS`` points; split: the real images; reference: npz file with ``mu``
    and ``sigma`` of Inception features (EDM's format) to use instead of them for FID; kept: features that KID,
    precision and recall use on each side, spread evenly over the samples; kid_subsets, kid_subset_size, neighbours,
    class_splits: of these measures; seed: of the subsets of KID and the splits of the class score; batch: images per
    call of an extractor; latents: one row of figures for each source: ``prior`` (what users get), ``encoder`` (read
    off real images) or ``dropped``.
    nfe_steps: if any, quality against network evaluations for these numbers of steps, with every one of nfe_samplers
    and nfe_samples images; loss_levels: noise levels of the curve of the loss, on loss_samples real images.
    """

    extractors: Annotated[tuple[ExtractorName, ...], Field(min_length=1)] = ("efficientnet_lite0",)
    samples: Number = 50_000
    inception_weights: str = ""
    split: Literal["train", "val"] = "train"
    reference: str = ""
    kept: Number = 10_000
    kid_subsets: PositiveInt = 100
    kid_subset_size: Number = 1000
    neighbours: PositiveInt = 3
    class_splits: PositiveInt = 10
    seed: int = Field(default=0, ge=0)
    batch: PositiveInt = 64
    latents: Annotated[tuple[Literal["prior", "encoder", "dropped"], ...], Field(min_length=1)] = ("prior",)
    nfe_steps: tuple[PositiveInt, ...] = ()
    nfe_samplers: Annotated[tuple[str, ...], Field(min_length=1)] = ("heun",)
    nfe_samples: Number = 10_000
    loss_levels: tuple[PositiveFloat, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    loss_samples: PositiveInt = 256

    @model_validator(mode="after")
    def _reference_is_used(self) -> "ImageEvaluationConfig":
        if self.reference and "inception" not in self.extractors:
            raise ValueError("reference holds statistics of Inception features: add 'inception' to extractors")
        return self
