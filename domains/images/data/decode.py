"""From image files to arrays: cheap looks at headers, and decoding."""

import hashlib
import io
import struct
import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image, UnidentifiedImageError

from core.errors import DataError
from domains.images.data.entries import Entries, ZipEntries

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MAX_PIXELS = 2**26 + 2**24  # of one image: Pillow warns of decompression bombs at about the same size
HEAD, TAIL = 2**16, 4096
_GREY_MODES = ("1", "L", "LA")
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_PNG = b"\x89PNG\r\n\x1a\n"
_IHDR = struct.Struct(">8sI4sIIBB")  # signature, length and type of the first chunk, width, height, depth, colour


@dataclass(frozen=True)
class FileImages:
    """Images in files, decoded when asked for. channels: 1 or 3, None for 1 where all are grey and 3 otherwise."""

    entries: Entries
    channels: int | None = None

    def __len__(self) -> int:
        return len(self.entries.names)

    def name(self, number: int) -> str:
        """For messages."""
        return f"{self.entries.root}: {self.entries.names[number]}"

    @cached_property
    def _looked(self) -> tuple[Int64[np.ndarray, "n 3"], dict[int, str]]:
        """Height, width and whether in colour, of all images, from the first bytes of the files; what is wrong, by
        number, with those that are no image or were cut off."""
        headers, problems = np.zeros((len(self), 3), dtype=np.int64), {}
        for number in range(len(self)):
            try:
                headers[number] = self._header(number)
            except DataError as error:
                problems[number] = str(error)
        return headers, problems

    @cached_property
    def depth(self) -> int:
        """Channels of what ``read`` returns."""
        return self.channels or (3 if self._looked[0][:, 2].any() else 1)

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width that all images have, from headers alone. Raises DataError where they differ, or
        where a file is no image or was cut off."""
        headers, problems = self._looked
        for problem in problems.values():
            more = f" ({len(problems)} such files: disco data verify names them)" if len(problems) > 1 else ""
            raise DataError(problem + more)
        sizes = headers[:, :2]
        odd = (sizes != sizes[0]).any(1)
        if odd.any():
            other = int(odd.argmax())
            raise DataError(
                f"{self.name(other)} has {_size(sizes[other])} pixels and {self.entries.names[0]} has "
                f"{_size(sizes[0])}: bring all images to one size first (disco data prepare)"
            )
        return self.depth, int(sizes[0, 0]), int(sizes[0, 1])

    def _header(self, number: int) -> tuple[int, int, bool]:
        head, tail = self.entries.ends(number, 33, TAIL)
        fast = _png_header(head)
        if fast is None:
            with _Named(self.name(number)):
                try:
                    fast = _header_of(self.entries.ends(number, HEAD, 0)[0])
                except (OSError, SyntaxError):  # what the header needs may lie behind a long comment or colour profile
                    fast = _header_of(self.entries.read(number))
        height, width, mode = fast
        self._acceptable(number, height, width, mode)
        if tail is not None and not _whole(head, tail, self.entries.size(number)):
            raise DataError(f"{self.name(number)}: the end of the file is missing; copy it again")
        return height, width, mode not in _GREY_MODES

    def _acceptable(self, number: int, height: int, width: int, mode: str) -> None:
        if min(height, width) < 1 or height * width > MAX_PIXELS:
            raise DataError(f"{self.name(number)}: {width} x {height} pixels, more than are accepted or none at all")
        if mode in _DEEP_MODES:
            raise DataError(f"{self.name(number)}: more than 8 bits per channel; convert it to 8 bits first")

    def picture(self, number: int) -> Image.Image:
        """The decoded image, grey or RGB; transparency is dropped. Raises DataError."""
        if number in self._looked[1]:
            raise DataError(self._looked[1][number])
        data = self.entries.read(number)
        with _Named(self.name(number)), warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                self._acceptable(number, image.height, image.width, image.mode)
                return image.convert("L" if self.depth == 1 else "RGB")

    def read(self, number: int) -> UInt8[np.ndarray, "c h w"]:
        """One image. Raises DataError where it cannot be decoded."""
        pixels = np.asarray(self.picture(number))
        return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))

    def digest(self) -> str:
        """SHA-256 over names and content: in a zip the stored checksums, in a folder sizes and ends of files."""
        digest = hashlib.sha256(f"{self.channels}".encode())
        for number, name in enumerate(self.entries.names):
            if isinstance(self.entries, ZipEntries):
                digest.update(f"\n{name} {self.entries.size(number)} {self.entries.checksum(number)}".encode())
            else:
                head, tail = self.entries.ends(number, 64, TAIL)
                digest.update(f"\n{name} {self.entries.size(number)} ".encode(errors="surrogateescape"))
                digest.update(head + (tail or b""))
        return digest.hexdigest()


class _Named:
    """Everything that Pillow raises on damaged files, as a DataError that names the file."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, DataError) or not isinstance(error, Exception):
            return
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others, depending on the damage.
        # Of no known format: Pillow names the buffer in memory, which tells nobody anything.
        reason = f"it is none of {', '.join(FORMATS)}" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"{self.name}: cannot be decoded ({reason}); replace or remove it") from error


def _size(height_width: np.ndarray) -> str:
    return f"{height_width[1]} x {height_width[0]}"


def _png_header(head: bytes) -> tuple[int, int, str] | None:
    """Height, width and Pillow's mode from the first bytes of a PNG; None for anything else."""
    if len(head) < _IHDR.size:
        return None
    signature, _, kind, width, height, depth, colour = _IHDR.unpack_from(head)
    if signature != _PNG or kind != b"IHDR":
        return None
    return height, width, "I;16" if depth == 16 else {0: "L", 4: "LA"}.get(colour, "RGB")


def _header_of(data: bytes) -> tuple[int, int, str]:
    """Height, width and mode from the beginning of any image that Pillow knows."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.height, image.width, image.mode


def _whole(head: bytes, tail: bytes, size: int) -> bool:
    """Whether the end of the file is where its format says."""
    if head[:8] == _PNG:
        return b"IEND\xaeB`\x82" in tail
    if head[:2] == b"\xff\xd8":
        return b"\xff\xd9" in tail
    if head[:4] == b"RIFF":
        return size >= int.from_bytes(head[4:8], "little") + 8
    if head[:2] == b"BM":
        return size >= int.from_bytes(head[2:6], "little")
    return True
