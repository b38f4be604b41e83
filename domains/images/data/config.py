"""The configuration of image data."""

from pydantic import Field

from core.config import Section, Share


class ImageDataConfig(Section):
    """What an image model is trained on.

    source: path of a folder, .zip, .npz or IDX file, or ``digits``; val_share: what is held out of sources without a
    test set; labels: whether classes are used;
    flip: mirror half of the images; augment: probability of EDM's non-leaking augmentation (EDM uses 0.12 for CIFAR-10,
    0.15 for FFHQ and AFHQ, 0 for ImageNet).
    """

    source: str = Field(default="digits", min_length=1)
    val_share: Share = 0.1
    labels: bool = True
    flip: bool = False
    augment: float = Field(default=0.0, ge=0, le=1)
