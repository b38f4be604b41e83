"""The evaluation of image generators: what is measured, under which name, and what is written."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from core.diagnostics import Curve, loss_by_level
from core.errors import ConfigError, DataError
from core.files import write_text
from core.interfaces import Dataset
from core.pipeline import Pipeline, Request
from domains.images.evaluation.config import ImageEvaluationConfig
from domains.images.evaluation.extractor import FeatureExtractor
from domains.images.evaluation.features import make_extractors
from domains.images.evaluation.generation import GeneratedImages
from domains.images.evaluation.measures import class_score, frechet_of_moments, kernel_distance, precision_recall
from domains.images.evaluation.sources import DatasetImages, ImageFiles, ImageSource
from domains.images.evaluation.statistics import FeatureSet, collect, read_statistics, reference_sets

logger = logging.getLogger("disco")
ROWS = {"prior": "generated", "encoder": "encoder latents", "dropped": "dropped latents"}
Rows = dict[str, dict[str, float]]


def figure_name(measure: str, extractor: str, count: int) -> str:
    """``fid_inception_50k``, ``fd_pixels_2000``: measure, feature space, number of generated samples in it.

    measure: frechet, kernel, score, or any other word, which stays. FID, KID and IS are names for the published
    Inception network only; in other spaces these are fd, kd and cs (class score).
    """
    inception = {"frechet": "fid", "kernel": "kid", "score": "is"}
    others = {"frechet": "fd", "kernel": "kd", "score": "cs"}
    word = (inception if extractor == "inception" else others).get(measure.removesuffix("_std"), measure)
    number = f"{count // 1000}k" if count % 1000 == 0 and count else str(count)
    return f"{word}_{extractor}_{number}{'_std' if measure.endswith('_std') else ''}"


def figures(
    extractor: str, generated: FeatureSet, real: FeatureSet, config: ImageEvaluationConfig, device: Any = "cpu"
) -> dict[str, float]:
    """All measures that the sets allow: Frechet distance always; kernel distance, precision and recall where features
    of both are kept; class score where the extractor has classes. Raises DataError for images of different sizes."""
    if generated.shape and real.shape and generated.shape[1:] != real.shape[1:]:
        raise DataError(
            f"the images have {generated.shape[1:]} pixels and the real ones {real.shape[1:]}: make them alike"
        )
    count, values = generated.moments.count, {}
    values[figure_name("frechet", extractor, count)] = frechet_of_moments(real.moments, generated.moments)
    fewest, kept = min(len(generated.kept), len(real.kept)), len(generated.kept)
    ours, theirs = generated.kept.to(device), real.kept.to(device)
    if fewest >= 2:
        size = min(config.kid_subset_size, fewest)
        mean, spread = kernel_distance(ours, theirs, config.kid_subsets, size, config.seed)
        values[figure_name("kernel", extractor, kept)] = mean
        values[figure_name("kernel_std", extractor, kept)] = spread
    if fewest > config.neighbours:
        pair = precision_recall(ours, theirs, config.neighbours)
        values |= {figure_name(n, extractor, kept): v for n, v in zip(("precision", "recall"), pair, strict=True)}
    if generated.logits.numel():
        mean, spread = class_score(generated.logits, min(config.class_splits, count), config.seed)
        values[figure_name("score", extractor, count)] = mean
        values[figure_name("score_std", extractor, count)] = spread
    return values


@dataclass(frozen=True)
class Judge:
    """Extractors, and the real images in each of their spaces."""

    extractors: Sequence[FeatureExtractor]
    real: Mapping[str, FeatureSet]
    config: ImageEvaluationConfig
    device: torch.device | str

    @classmethod
    def of(
        cls,
        extractors: Sequence[FeatureExtractor],
        source: ImageSource | Path,
        config: ImageEvaluationConfig,
        device: torch.device | str = "cpu",
        split: str = "",
    ) -> "Judge":
        """source: real images, or an npz file with the moments of Inception features.

        Raises ConfigError where such a file would have to serve another extractor, DataError for damaged data.
        """
        if isinstance(source, Path):
            if others := [each.name for each in extractors if not each.name.startswith("inception")]:
                raise ConfigError(f"{source} holds statistics of Inception features: they say nothing for {others[0]}")
            return cls(extractors, {each.name: read_statistics(source) for each in extractors}, config, device)
        stored = [each for each in extractors if config.reference and each.name.startswith("inception")]
        real = {each.name: read_statistics(Path(config.reference).expanduser()) for each in stored}
        others_here = [each for each in extractors if each.name not in real]
        if others_here:
            real |= reference_sets(others_here, source, split, config.kept, config.batch)
        return cls(extractors, real, config, device)

    def measure(self, images: GeneratedImages | ImageSource, total: int) -> dict[str, float]:
        """All figures of ``total`` images."""
        batches = images if isinstance(images, GeneratedImages) else images.batches(4 * self.config.batch)
        sets = collect(self.extractors, batches, total, self.config.kept, self.config.batch)
        values: dict[str, float] = {}
        for name, found in sets.items():
            values |= figures(name, found, self.real[name], self.config, self.device)
        return values

    def record(self) -> dict[str, Any]:
        """What the figures depend on, for the record beside them."""
        real = {name: {"images": each.moments.count, "kept": len(each.kept)} for name, each in self.real.items()}
        return {
            "extractors": {each.name: {"identity": each.identity, "real": real[each.name]} for each in self.extractors},
            "config": self.config.model_dump(mode="json"),
        }


def evaluate_generator(
    pipeline: Pipeline,
    request: Request,
    config: ImageEvaluationConfig,
    out: Path,
    count: int | None = None,
    dataset: Dataset | None = None,
) -> Rows:
    """Measure a model against the images of ``config.split`` of its domain: one row of figures per source of latents.

    count: images to generate, None: ``config.samples``; dataset: the real images, None: those of the domain, which must
    then be neither mirrored nor augmented. Writes OUT/metrics.json (with everything the figures depend
    on), metrics.md, loss.png and, where ``config.nfe_steps`` asks for it, nfe-EXTRACTOR.png. Every row has the same
    columns and ends with ``nfe``, network evaluations per image.
    """
    request = replace(request, count=count or config.samples)
    dataset = pipeline.domain.dataset(config.split) if dataset is None else dataset
    source = DatasetImages(dataset)
    extractors = make_extractors(config, source.shape, pipeline.device)
    judge = Judge.of(extractors, source, config, pipeline.device, config.split)
    rows: Rows = {}
    for latents in ("prior",) if pipeline.space is None else config.latents:
        images = GeneratedImages(pipeline, request, latents, dataset)
        logger.info("%s: %d images", ROWS[latents], request.count)
        rows[ROWS[latents]] = {**judge.measure(images, request.count), "nfe": float(images.nfe)}
    record = {
        "model": pipeline.name, "data": {"split": config.split, "content_hash": dataset.content_hash},
        "request": {name: repr(value) for name, value in vars(request).items()}, **judge.record(), "rows": rows,
        "loss": loss_curves(pipeline, dataset, config, out), "nfe": nfe_curves(pipeline, request, judge, out),
    }  # fmt: skip
    _write(out, record, rows)
    return rows


def evaluate_folder(
    images: Path,
    reference: Path | Dataset,
    config: ImageEvaluationConfig = ImageEvaluationConfig(),
    out: Path | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Figures of the images of a folder or zip file, made by anyone, against real ones.

    reference: a data set, another folder or zip file, or an npz file with ``mu`` and ``sigma`` of Inception features
    (then ``config.extractors`` must be inception alone). out: where to write metrics.json and metrics.md, if anywhere.
    ``config.samples`` is not used: all images count. Raises DataError, ConfigError.
    """
    source = ImageFiles(images)
    extractors = make_extractors(config, source.shape, device)
    real: ImageSource | Path
    if isinstance(reference, Path):
        real = reference if reference.suffix == ".npz" else ImageFiles(reference)
    else:
        real = DatasetImages(reference)
    split = "files" if isinstance(reference, Path) else config.split
    judge = Judge.of(extractors, real, config, device, split)
    values = judge.measure(source, len(source))
    if out is not None:
        about = {"images": str(images), "content_hash": source.content_hash, "reference": _named(reference)}
        _write(out, {**about, **judge.record(), "rows": {"images": values}}, {"images": values})
    return values


def _named(reference: Path | Dataset) -> str:
    return str(reference) if isinstance(reference, Path) else reference.content_hash


def loss_curves(pipeline: Pipeline, dataset: Dataset, config: ImageEvaluationConfig, out: Path) -> dict[str, Any]:
    """Loss against noise level on real images, with latents and, where the model knows it, without (DisCo-Diff Fig. 7),
    drawn into OUT/loss.png; nothing for a model with latents and no encoder to read them."""
    if not config.loss_levels or (pipeline.space is not None and "encoder" not in pipeline.networks):
        return {}
    from core.plots import plot_curves  # brings Matplotlib with it

    size = min(config.loss_samples, len(dataset))
    real = dataset.load([number * len(dataset) // size for number in range(size)], range(size))
    kinds = {"no latents": False}
    if pipeline.space is not None:
        kinds = {"with latents": True, **({"latents dropped": False} if pipeline.config.latents.drop else {})}
    curves = {name: loss_by_level(pipeline, real, config.loss_levels, kind) for name, kind in kinds.items()}
    plot_curves(curves, "mean squared error", out / "loss.png", log="xy")
    return {name: vars(curve) for name, curve in curves.items()}


def nfe_curves(pipeline: Pipeline, request: Request, judge: Judge, out: Path) -> dict[str, Any]:
    """Frechet distance of ``config.nfe_samples`` images against network evaluations per image, for every sampler and
    number of steps of the configuration; one picture OUT/nfe-EXTRACTOR.png per extractor."""
    config, own = judge.config, pipeline.config.sampling
    if not config.nfe_steps:
        return {}
    from core.plots import plot_curves  # brings Matplotlib with it

    request = replace(request, count=config.nfe_samples)
    names = {each.name: figure_name("frechet", each.name, config.nfe_samples) for each in judge.extractors}
    curves: dict[str, dict[str, Curve]] = {name: {} for name in names}
    for sampler in config.nfe_samplers:
        chosen = pipeline.sampler(sampler, own.options if sampler == own.sampler else None)
        for steps in sorted(config.nfe_steps):
            images = GeneratedImages(pipeline, replace(request, sampler=chosen, steps=steps))
            logger.info("%s, %d steps: %d images", sampler, steps, request.count)
            sets = collect(judge.extractors, images, request.count, kept=0, batch=config.batch, logits=False)
            for name, found in sets.items():
                curve = curves[name].setdefault(sampler, Curve([], []))
                curve.levels.append(float(images.nfe))
                curve.values.append(frechet_of_moments(judge.real[name].moments, found.moments))
    for name, each in curves.items():
        plot_curves(each, names[name], out / f"nfe-{name}.png", "xy", "network evaluations per image")
    return {names[name]: {s: vars(curve) for s, curve in each.items()} for name, each in curves.items()}


def _write(out: Path, record: dict[str, Any], rows: Rows) -> None:
    write_text(out / "metrics.json", json.dumps(record, indent=2, allow_nan=False))
    write_text(out / "metrics.md", markdown_table(rows))


def markdown_table(rows: Rows) -> str:
    """Figures down, rows across: names are long and rows few."""
    lines = [f"| figure | {' | '.join(rows)} |", f"|---|{'---:|' * len(rows)}"]
    for figure in next(iter(rows.values())):
        lines.append(f"| {figure} | {' | '.join(f'{row[figure]:.5g}' for row in rows.values())} |")
    return "\n".join(lines) + "\n"
