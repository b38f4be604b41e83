"""Any source as one zip archive in EDM's format, and the check of everything in a source."""

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from core.cache import cache_folder
from core.errors import DataError, StorageError
from core.files import sha256, write_atomically, write_text
from core.training.logs import ProgressBar
from domains.images.data.decode import FileImages
from domains.images.data.entries import LABEL_FILE, ZipEntries
from domains.images.data.sources import ImageSource, in_files, open_source
from domains.images.write import as_image

Crop = Literal["center-crop", "center-crop-dhariwal"]
LONG = 10_000  # images whose decoding takes seconds, so that progress is of interest
MAX_NAMED = 20  # damaged images in one message
_EPOCH = (1980, 1, 1, 0, 0, 0)  # of every entry, so that equal images give equal archives

logger = logging.getLogger("disco")


@dataclass(frozen=True)
class Preparation:
    """resolution: height and width to bring images to, None to leave them; crop: EDM's name of how; channels: 1 or 3,
    None as the source is; limit: number of images, spread evenly over the source; skip_damaged: leave damaged images
    out instead of giving up; quiet: no progress."""

    resolution: int | None = None
    crop: Crop = "center-crop"
    channels: int | None = None
    limit: int | None = None
    skip_damaged: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class Report:
    """What an archive or a source holds. shape: channels, height, width; counts: images per class, empty without
    classes; skipped: damaged images that were left out; pixels: SHA-256 over all decoded pixels in order; remedy: what
    would give classes to a source without."""

    images: int
    shape: tuple[int, int, int]
    counts: tuple[int, ...]
    pixels: str
    skipped: int = 0
    remedy: str = ""

    def summary(self) -> str:
        """One line for the user."""
        channels, height, width = self.shape
        classes = f"no classes (to have some, {self.remedy})" if self.remedy else "no classes"
        if self.counts:
            classes = f"{len(self.counts)} classes of {min(self.counts)} to {max(self.counts)} images"
        left_out = f"; {self.skipped} damaged ones left out" if self.skipped else ""
        return f"{self.images} images, {width} x {height} pixels, {channels} channel(s), {classes}{left_out}"


def fit(image: Image.Image, resolution: int, crop: Crop) -> Image.Image:
    """A square image of ``resolution`` pixels.

    center-crop: the middle square, then a Lanczos filter (what EDM's README uses for ImageNet-64).
    center-crop-dhariwal: halve with a box filter while both sides are at least twice the target, a bicubic filter for
    the rest, then the middle square (Dhariwal & Nichol 2021).
    """
    if crop == "center-crop":
        return _middle(image, min(image.size)).resize((resolution, resolution), Image.Resampling.LANCZOS)
    while min(image.size) >= 2 * resolution:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    factor = resolution / min(image.size)
    size = round(image.width * factor), round(image.height * factor)
    return _middle(image.resize(size, Image.Resampling.BICUBIC), resolution)


def _middle(image: Image.Image, side: int) -> Image.Image:
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def prepare(source: ImageSource, out: Path, options: Preparation) -> Report:
    """Write ``source`` to the archive ``out`` (stored PNG files and dataset.json) and its SHA-256 to ``out``.sha256.

    The archive appears under its name only after every image in it was decoded again and found equal. Raises DataError
    for damaged images (unless they are to be left out) and StorageError.
    """
    if options.limit is not None and options.limit < len(source):
        source = source.subset(np.arange(options.limit) * len(source) // options.limit)
    if options.resolution is None and not options.skip_damaged:
        source.shape  # noqa: B018 : differing sizes are reported before the work begins
    reports: list[Report] = []

    def write(temporary: Path) -> None:
        written = _write(source, temporary, options)
        found = verify(in_files(ZipEntries(temporary), None), options.quiet, "checking")
        if (found.images, found.counts, found.pixels) != (written.images, written.counts, written.pixels):
            raise DataError(f"{out}: what was written is not what was read back; check the disk and run again")
        reports.append(written)

    write_atomically(out, write)
    write_text(checksum_file(out), f"{sha256(out)}  {out.name}\n")
    return reports[0]


def checksum_file(archive: Path) -> Path:
    """Where the SHA-256 of an archive is kept, in the format of ``sha256sum``."""
    return archive.with_name(f"{archive.name}.sha256")


def _write(source: ImageSource, path: Path, options: Preparation) -> Report:
    labels: list[list[str | int]] = []
    digest, shape, skipped = hashlib.sha256(), None, 0
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for index, image in _pictures(source, options):
            if image is None:
                skipped += 1
                continue
            pixels = np.asarray(image)
            shape = shape or pixels.shape
            if pixels.shape != shape:
                reason = f"{pixels.shape[1]} x {pixels.shape[0]} pixels, and others have {shape[1]} x {shape[0]}"
                raise DataError(f"{source.name(index)}: {reason}: name a resolution to bring them to")
            digest.update(pixels.tobytes())
            number = len(labels)
            name = f"{number // 1000:05d}/img{number:08d}.png"
            buffer = io.BytesIO()
            image.save(buffer, format="png")
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), buffer.getvalue())
            labels.append([name, 0 if source.labels is None else int(source.labels[index])])
        if shape is None:
            raise DataError(f"{source.path}: no image is left to write")
        text = json.dumps({"labels": None if source.labels is None else labels})
        archive.writestr(zipfile.ZipInfo(LABEL_FILE, _EPOCH), text)
    counts = () if source.labels is None else _counts(np.array([label for _, label in labels]))
    return Report(len(labels), _shape(shape), counts, digest.hexdigest(), skipped)


def _pictures(source: ImageSource, options: Preparation) -> Iterator[tuple[int, Image.Image | None]]:
    """Number and image in turn; None for a damaged one that is to be left out."""
    bar = ProgressBar("preparing", len(source), quiet=options.quiet)
    try:
        for index in range(len(source)):
            try:
                image = picture(source, index)
            except DataError as error:
                if not options.skip_damaged:
                    raise
                logger.warning("left out: %s", error)
                yield index, None
                continue
            yield index, image if options.resolution is None else fit(image, options.resolution, options.crop)
            bar.update(index + 1)
    finally:
        bar.close()


def picture(source: ImageSource, index: int) -> Image.Image:
    """One image of any size, grey or RGB. Raises DataError."""
    stored, number = source.stored, int(source.numbers[index])
    if isinstance(stored, FileImages):
        return stored.picture(number)
    return as_image(stored.read(number))


def verify(source: ImageSource, quiet: bool = True, title: str = "verifying") -> Report:
    """Decode every image and compare sizes. Raises DataError that names the damaged ones."""
    digest, shapes, damaged = hashlib.sha256(), set(), []
    with closing(ProgressBar(title, len(source), quiet=quiet)) as bar:
        for index in range(len(source)):
            try:
                pixels = np.asarray(picture(source, index))
                digest.update(pixels.tobytes())
                shapes.add(_shape(pixels.shape))
            except DataError as error:
                damaged.append(str(error))
            bar.update(index + 1)
    if damaged:
        more = "" if len(damaged) <= MAX_NAMED else f"\nand {len(damaged) - MAX_NAMED} more"
        raise DataError(
            f"{len(damaged)} of {len(source)} images are damaged:\n" + "\n".join(damaged[:MAX_NAMED]) + more
        )
    if len(shapes) > 1:
        source.shape  # noqa: B018 : raises the error that names two of them
    counts, remedy = ((), source.remedy) if source.labels is None else (_counts(source.labels), "")
    return Report(len(source), shapes.pop(), counts, digest.hexdigest(), remedy=remedy)


def verify_once(source: ImageSource) -> None:
    """``verify`` of all image files of a source, held-out ones too, and a marker in the cache: files that were not
    written since are not decoded again. Arrays have nothing to decode. Raises DataError that names the damaged ones."""
    stored = source.stored
    if not isinstance(stored, FileImages):
        return
    marker = cache_folder() / "images" / f"verified-{stored.entries.stamp()}"
    if marker.exists():
        return
    count, silent = len(stored), not logger.isEnabledFor(logging.INFO)  # such as all but one process of a training
    logger.info("%s: decoding all %d images before training, once and for all", source.path, count)
    verify(ImageSource(source.path, stored, np.arange(count), None, 0), silent or count < LONG, "checking")
    try:
        write_text(marker, f"{source.path}\n")
    except StorageError as error:  # the check itself is done
        logger.warning("all images will be decoded again next time: %s", error)


def verify_path(path: str, split: str = "all", quiet: bool = False) -> Report:
    """``verify`` of a source by its path; a file is first compared with the checksum beside it. Raises DataError."""
    expected = checksum_file(Path(path))
    if Path(path).is_file() and expected.is_file():
        words = expected.read_text(encoding="utf-8", errors="replace").split()
        if not words or words[0] != sha256(Path(path)):
            raise DataError(f"{path}: does not have the SHA-256 in {expected.name}; copy or prepare it again")
    return verify(open_source(path, split), quiet)


def _counts(labels: np.ndarray) -> tuple[int, ...]:
    return tuple(np.bincount(labels).tolist())


def _shape(pixels: tuple[int, ...]) -> tuple[int, int, int]:
    return (pixels[2] if len(pixels) == 3 else 1), pixels[0], pixels[1]
