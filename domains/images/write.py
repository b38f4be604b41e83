"""Images and grids of images as PNG files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from core.files import write_atomically


def to_bytes(images: Float[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
    """[-1, 1] to 0..255."""
    return ((images.detach().cpu().double() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def grid(pictures: UInt8[Tensor, "n c h w"], columns: int, gap: int = 1) -> UInt8[Tensor, "c a b"]:
    """Pictures side by side, row by row, on white."""
    count, channels, height, width = pictures.shape
    rows = -(-count // columns)
    shape = (channels, rows * (height + gap) + gap, columns * (width + gap) + gap)
    sheet = torch.full(shape, 255, dtype=torch.uint8)
    for index, picture in enumerate(pictures):
        top = gap + (index // columns) * (height + gap)
        left = gap + (index % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = picture
    return sheet


def as_image(picture: UInt8[np.ndarray, "c h w"]) -> Image.Image:
    """Pillow's image of one channel or three."""
    return Image.fromarray(np.ascontiguousarray(picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)))


def save_png(picture: UInt8[Tensor, "c h w"], path: Path, scale: int = 1) -> Path:
    """Write one picture, enlarged by a whole factor without smoothing."""
    image = as_image(picture.numpy().repeat(scale, 1).repeat(scale, 2))
    write_atomically(path, lambda temporary: image.save(temporary, format="png"))
    return path


def read_png(path: Path) -> UInt8[Tensor, "c h w"]:
    """A picture of one channel or three."""
    with Image.open(path) as image:
        return torch.from_numpy(np.atleast_3d(np.array(image)).transpose(2, 0, 1).copy())


def write_images(images: Float[Tensor, "n c h w"], ids: Sequence[int], out: Path) -> list[Path]:
    """One PNG per image, named by its sample number."""
    pictures = to_bytes(images)
    return [save_png(p, image_file(out, number)) for p, number in zip(pictures, ids, strict=True)]


def image_file(out: Path, number: int) -> Path:
    """Where ``write_images`` puts the image of a sample number."""
    return out / f"{number:06d}.png"
