"""Features of whole sets of images: computed in one pass, kept between runs for the real ones."""

import hashlib
import logging
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from core.cache import cache_folder
from core.errors import DataError
from core.files import write_atomically
from domains.images.evaluation.extractor import FeatureExtractor
from domains.images.evaluation.moments import Moments, RunningMoments
from domains.images.evaluation.sources import ImageSource

logger = logging.getLogger("disco")
FORMAT = 1  # of the cached files
REPORTS = 20  # lines of progress per pass


@dataclass(frozen=True)
class FeatureSet:
    """What is known of a set of images in one feature space.

    moments: of all images; kept: [K, D] features of some of them, spread evenly over the set (K = 0: none are known);
    logits: [N, classes] of all of them; shape: (channels, height, width) of the images, None where it is not known.
    """

    moments: Moments
    kept: Float[Tensor, "k d"]
    logits: Float[Tensor, "n c"]
    shape: tuple[int, int, int] | None = None


class Collector:
    """Takes in the images of one set, whose number is known, for one extractor."""

    def __init__(self, extractor: FeatureExtractor, total: int, kept: int, logits: bool = True) -> None:
        """kept: features to keep; logits: keep those too, where the extractor has them."""
        self.extractor, self.total, self.seen = extractor, total, 0
        self._moments = RunningMoments(extractor.dim)
        size = min(kept, total)
        self._chosen = torch.tensor([number * total // size for number in range(size)], dtype=torch.long)
        self._kept = torch.zeros(size, extractor.dim)
        self._logits = torch.zeros(total if logits else 0, extractor.classes)
        self.shape: tuple[int, int, int] | None = None

    def add(self, images: UInt8[Tensor, "n c h w"], batch: int = 64) -> None:
        """Take in some images, ``batch`` per call of the extractor."""
        channels, height, width = images.shape[1:]
        self.shape = channels, height, width
        for part in images.split(batch):
            features = self.extractor(part)
            first, last = self.seen, self.seen + len(part)
            if len(self._logits):
                self._logits[first:last] = self.extractor.logits(features).cpu()
            features = features.cpu().float()
            self._moments.add(features)
            places = ((self._chosen >= first) & (self._chosen < last)).nonzero().flatten()
            self._kept[places] = features[self._chosen[places] - first]
            self.seen = last

    def result(self) -> FeatureSet:
        """Raises DataError unless all images came and all features are finite."""
        if self.seen != self.total:
            raise DataError(f"{self.total} images were announced, and {self.seen} came")
        moments = self._moments.result()
        if not torch.isfinite(moments.covariance).all():
            raise DataError(f"features of {self.extractor.name} are not finite: the images or its weights are damaged")
        return FeatureSet(moments, self._kept, self._logits, self.shape)


def collect(
    extractors: Sequence[FeatureExtractor],
    images: Iterable[UInt8[Tensor, "_ c h w"]],
    total: int,
    kept: int,
    batch: int = 64,
    logits: bool = True,
) -> dict[str, FeatureSet]:
    """One pass over ``total`` images that come in batches, for all extractors at once; by the extractor's name."""
    collectors = [Collector(extractor, total, kept, logits) for extractor in extractors]
    seen = reported = 0
    for group in images:
        for collector in collectors:
            collector.add(group, batch)
        seen += len(group)
        if seen * REPORTS // total > reported:
            reported = seen * REPORTS // total
            logger.info("measured %d of %d images", seen, total)
    return {collector.extractor.name: collector.result() for collector in collectors}


def reference_sets(
    extractors: Sequence[FeatureExtractor], source: ImageSource, split: str, kept: int, batch: int = 64
) -> dict[str, FeatureSet]:
    """Features of real images, from the cache where they are; one pass computes what is missing there."""
    files = {each.name: statistics_file(each, source, split, kept) for each in extractors}
    known = {name: found for name, path in files.items() if (found := _read_or_none(path)) is not None}
    missing = [each for each in extractors if each.name not in known]
    if missing:
        names = ", ".join(each.name for each in missing)
        logger.info("features of %d real images (%s, %s), once and for all", len(source), split, names)
        new = collect(missing, source.batches(4 * batch), len(source), kept, batch, logits=False)
        for name, features in new.items():
            write_statistics(files[name], features)
        known |= new
    return known


def statistics_file(extractor: FeatureExtractor, source: ImageSource, split: str, kept: int) -> Path:
    """Where the features of a data set lie in the cache: a name for the content of the data, the extractor with its
    weights, the split and how many features are kept."""
    facts = (FORMAT, source.content_hash, len(source), extractor.identity, split, min(kept, len(source)))
    key = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    return cache_folder() / "images" / f"{split}-{extractor.name}-{key}.npz"


def write_statistics(path: Path, features: FeatureSet) -> None:
    """Write a set of real features (without logits), so that nobody ever reads half of it. Raises StorageError."""
    moments = features.moments
    arrays = {
        "mu": moments.mean.numpy(), "sigma": moments.covariance.numpy(), "count": np.array(moments.count),
        "kept": features.kept.numpy(), "shape": np.array(features.shape or (), dtype=np.int64),
    }  # fmt: skip
    arrays["checksum"] = np.array(_checksum(arrays))

    def write(temporary: Path) -> None:
        with temporary.open("wb") as handle:
            np.savez(handle, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for its own options

    write_atomically(path, write)


def read_statistics(path: Path) -> FeatureSet:
    """Features from an npz file: one of ours, or any with ``mu`` [D] and ``sigma`` [D, D] (EDM's reference files).

    Raises DataError for a file that is missing, damaged, or holds anything else. Nothing in it is executed.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile, AttributeError) as error:
        raise DataError(f"{path}: not a readable npz file of statistics ({error})") from error
    if not {"mu", "sigma"} <= arrays.keys():
        raise DataError(f"{path}: holds no 'mu' and 'sigma', but {', '.join(sorted(arrays)) or 'nothing'}")
    mean, covariance = arrays["mu"], arrays["sigma"]
    square = mean.ndim == 1 and len(mean) and covariance.shape == (len(mean), len(mean))
    if not square or mean.dtype.kind != "f" or covariance.dtype.kind != "f":
        raise DataError(f"{path}: 'mu' {mean.shape} and 'sigma' {covariance.shape} are no mean and covariance")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise DataError(f"{path}: 'mu' or 'sigma' holds numbers that are not finite")
    if "checksum" in arrays and str(arrays.pop("checksum")) != _checksum(arrays):
        raise DataError(f"{path}: damaged, its checksum does not fit")
    moments = Moments(
        torch.from_numpy(mean.astype(np.float64)), torch.from_numpy(covariance.astype(np.float64)),
        int(arrays.get("count", 0)),
    )  # fmt: skip
    kept = torch.from_numpy(arrays["kept"]) if "kept" in arrays else torch.zeros(0, len(mean))
    channels, height, width = (int(size) for size in arrays["shape"]) if len(arrays.get("shape", ())) else (0, 0, 0)
    return FeatureSet(moments, kept, torch.zeros(0, 0), (channels, height, width) if channels else None)


def _read_or_none(path: Path) -> FeatureSet | None:
    """A cached set; None, with a warning, where the file is damaged, so that it is computed again."""
    if not path.exists():
        return None
    try:
        return read_statistics(path)
    except DataError as error:
        logger.warning("%s; its statistics are computed again", error)
        return None


def _checksum(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name}{arrays[name].shape}{arrays[name].dtype}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
