"""Both sides of the comparison: our denoiser, and the one that an EDM checkout builds from the same settings."""

import argparse
import importlib
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core.config_file import parse_config
from core.errors import DataError
from core.interfaces import Domain
from core.precision import Precision
from core.precondition import PreconditionedDenoiser
from core.registry import get_domain
from core.types import Batch
from domains.images.networks.adm import ADMSettings
from domains.images.networks.song import MULTIPLES, SongSettings

NETS = ("ddpmpp", "ncsnpp", "adm")
CLASSES = 10


@dataclass(frozen=True)
class Variant:
    """How our network is run. matmul: torch's precision of float32 products; precision, compile: as in our settings."""

    channels_last: bool = False
    matmul: Literal["highest", "medium"] = "highest"
    precision: Precision = "fp32"
    compile: bool = False


VARIANTS = {
    "ours": Variant(),
    "channels-last": Variant(channels_last=True),
    "matmul-medium": Variant(matmul="medium"),
    "bf16": Variant(precision="bf16"),
    "compile": Variant(compile=True),
    "bf16-compile": Variant(precision="bf16", compile=True),
    "bf16-channels-last-compile": Variant(channels_last=True, precision="bf16", compile=True),
}
OURS_ONLY = ("img_resolution", "in_channels", "out_channels", "label_dim", "channels_per_head")
BUFFERS = ("resample_filter",)  # of the peer's that ours does not keep
TOLERANCE = 1e-3


def image_domain(options: argparse.Namespace, variant: Variant = VARIANTS["ours"]) -> Domain:
    """Images with classes and a denoiser of the published shape at another width, sampled from as ``variant`` says; no
    latents. Raises ConfigError."""
    multiple = MULTIPLES.get(options.resolution, MULTIPLES[64])
    sizes: dict[str, Any] = {"network": "song", "channel_mult": multiple, "dropout": 0.13}
    if options.net == "adm":
        sizes = {"network": "adm"}
    elif options.net == "ncsnpp":
        published = SongSettings.ncsnpp(32)
        names = ("embedding_type", "channel_mult_noise", "encoder_type", "resample_filter")
        sizes |= {name: getattr(published, name) for name in names}
    raw = {
        "domain": "images",
        "latents": {"kind": "none"},
        "sampling": {"precision": variant.precision, "compile": "inductor" if variant.compile else None},
        "model": {
            "resolution": options.resolution, "image_channels": 3, "classes": CLASSES,
            "denoiser": {**sizes, "model_channels": options.width},
        },
    }  # fmt: skip
    return get_domain("images")(parse_config(raw, f"--net {options.net}"))


def our_denoiser(domain: Domain, variant: Variant = VARIANTS["ours"]) -> PreconditionedDenoiser:
    """The domain's denoiser, laid out as ``variant`` says."""
    denoiser = domain.denoiser()
    assert isinstance(denoiser, PreconditionedDenoiser)
    lay_out(denoiser, variant)
    return denoiser


def lay_out(module: nn.Module, variant: Variant) -> None:
    """The layout of weights, in place, and torch's precision of products."""
    torch.set_float32_matmul_precision(variant.matmul)
    if variant.channels_last:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def inputs(options: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    """Images [B, 3, R, R] of about the data's spread, noise levels [B], class numbers [B], on the options' device."""
    generator = torch.Generator().manual_seed(options.seed)
    images = torch.randn(options.batch, 3, options.resolution, options.resolution, generator=generator) / 2
    levels = torch.randn(options.batch, generator=generator).exp()
    device = options.device
    return images.to(device), levels.to(device), (torch.arange(options.batch) % CLASSES).to(device)


class Peer:
    """EDM's own classes and sampler, called by their names in a checkout."""

    def __init__(self, folder: Path) -> None:
        """Raises DataError where the folder is no such checkout. Its modules are imported: give one that you trust."""
        sys.path.insert(0, str(folder))
        try:
            self.networks, self.losses, self.generate = (
                importlib.import_module(name) for name in ("training.networks", "training.loss", "generate")
            )
        except ImportError as error:
            raise DataError(f"{folder}: not a working checkout of EDM ({error}); see its requirements") from error
        for module in (self.networks, self.losses, self.generate):
            _check_inside(module, folder)

    def network(self, domain: Domain, fp16: bool = False) -> nn.Module:
        """The preconditioned network of the same settings, on random weights of its own. fp16: EDM's half precision,
        which acts on a GPU."""
        settings = domain.config.model.network()
        sizes = {name: value for name, value in asdict(settings).items() if name not in OURS_ONLY}
        kind = "DhariwalUNet" if isinstance(settings, ADMSettings) else "SongUNet"
        network: nn.Module = self.networks.EDMPrecond(
            settings.img_resolution,
            settings.in_channels,
            label_dim=settings.label_dim,
            use_fp16=fp16,
            model_type=kind,
            **sizes,
        )
        return network


def _check_inside(module: ModuleType, folder: Path) -> None:
    file = module.__file__
    if file is None or not Path(file).resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{folder}: '{module.__name__}' was imported from {file} instead; is this a checkout of EDM?")


@torch.no_grad()
def check_same(options: argparse.Namespace) -> float:
    """Largest difference between the outputs of both sides on the CPU under the same weights, of outputs about 1.

    Raises DataError where the weights do not fit or the outputs differ: then it is not the same network that is timed.
    """
    domain = image_domain(options)
    ours, theirs = our_denoiser(domain).eval(), Peer(options.peer).network(domain).eval()
    generator = torch.Generator().manual_seed(options.seed)
    for parameter in ours.parameters():  # layers that start at zero would hide what is before them
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    weights = {f"model.{name}": value for name, value in ours.network.state_dict().items()}
    try:
        missing, unknown = theirs.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise DataError(f"{options.peer}: our weights do not fit its network: {error}") from error
    wrong = [*(name for name in missing if not name.endswith(BUFFERS)), *unknown]
    if wrong:
        raise DataError(f"{options.peer}: its network is not ours, '{wrong[0]}' exists on one side only")
    images, levels, label = (each.cpu() for each in inputs(options))
    one_hot = torch.nn.functional.one_hot(label, CLASSES)
    batch = Batch(torch.arange(len(images)), label=label)
    difference = float((ours.denoise(images, levels, None, batch) - theirs(images, levels, one_hot)).abs().max())
    if not difference < TOLERANCE:
        raise DataError(f"{options.peer}: outputs differ by {difference:.2g} under the same weights")
    return difference
