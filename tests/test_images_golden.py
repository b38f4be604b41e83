"""Image networks against outputs, losses, gradients and samples of EDM's own code with seeded random weights."""

import json
import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from core.geometry import Euclidean
from core.guidance import ScoreField
from core.interfaces import expand
from core.noise import EDMWeighting, inverse_square
from core.precondition import (
    EDMPrecondition,
    IDDPMPrecondition,
    Precondition,
    PreconditionedDenoiser,
    VPPrecondition,
)
from core.rng import SampleStreams
from core.samplers import Heun
from core.schedules import VPPath, sampling_levels
from core.types import Batch
from domains.images.networks.adm import ADMSettings, DhariwalUNet
from domains.images.networks.song import SongSettings, SongUNet
from domains.images.networks.unet import ImageUNet
from tests.support import SHARED_DATA

FOLDER = SHARED_DATA / "golden" / "images"
NAMES = ("songunet_ddpmpp", "dhariwal_adm")
if not all((FOLDER / f"{name}.npz").exists() for name in NAMES):
    pytest.skip(f"no golden references in {SHARED_DATA / 'golden'}", allow_module_level=True)

PRECONDITIONS: dict[str, Precondition] = {
    "edm": EDMPrecondition(0.5),
    "vp": VPPrecondition(),
    "iddpm": IDDPMPrecondition(),
}
RUNS = [(name, kind) for name in NAMES for kind in PRECONDITIONS if (name, kind) != (NAMES[0], "iddpm")]
TOLERANCE = 1e-5
# The references' own float32 gradients under VP weights (1 / sigma^2) are up to 3.2e-5 from those of this network in
# float64; how float32 rounds is the processor's.
GRADIENT_TOLERANCE = {"vp": 5e-5}


@dataclass(frozen=True)
class Golden:
    """One network of the references under one preconditioning."""

    data: Any
    model: PreconditionedDenoiser
    kind: str

    def array(self, name: str) -> Tensor:
        return torch.from_numpy(self.data[name])

    @property
    def network(self) -> ImageUNet:
        network = self.model.network
        assert isinstance(network, ImageUNet)
        return network

    def denoise(self, labels: bool = True, augment: bool = False) -> Tensor:
        label = self.array("class_labels").argmax(1) if labels else None
        batch = Batch(torch.arange(4), label=label, vector=self.array("augment_labels") if augment else None)
        x, sigma = self.array(f"{self.kind}/x_noisy"), self.array(f"{self.kind}/sigma")
        with torch.no_grad():
            return self.model.denoise(x, sigma, None, batch)


@cache
def golden(name: str, kind: str) -> Golden:
    """Weights are float16 in the file and run in float32."""
    data = np.load(FOLDER / f"{name}.npz")
    config = json.loads(str(data["config"]))
    config = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    channels = config.pop("img_channels")
    sizes = {**config, "in_channels": channels, "out_channels": channels * (2 if kind == "iddpm" else 1)}
    network: ImageUNet
    if sizes.pop("model_type") == "SongUNet":
        network = SongUNet(SongSettings(**sizes))
    else:
        network = DhariwalUNet(ADMSettings(**sizes))
    prefix = ("iddpm_sd/" if kind == "iddpm" else "sd/") + "model."
    weights = {k.removeprefix(prefix): torch.from_numpy(data[k]) for k in data.files if k.startswith(prefix)}
    network.load_state_dict({k: v for k, v in weights.items() if not k.endswith("resample_filter")})
    return Golden(data, PreconditionedDenoiser(network, PRECONDITIONS[kind]).eval(), kind)


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(("name", "kind"), RUNS)
def test_denoised_images_equal_edms(name: str, kind: str) -> None:
    one = golden(name, kind)
    assert error(one.denoise(), one.array(f"{kind}/D")) < TOLERANCE
    assert error(one.denoise(labels=False), one.array(f"{kind}/D_nolabel")) < TOLERANCE
    if f"{kind}/D_aug" in one.data:
        assert error(one.denoise(augment=True), one.array(f"{kind}/D_aug")) < TOLERANCE


@pytest.mark.parametrize(("name", "kind"), RUNS)
def test_every_channel_of_the_raw_networks_equals_edms(name: str, kind: str) -> None:
    one = golden(name, kind)
    noise, expected = one.array(f"{kind}/F_raw_noise_labels"), one.array(f"{kind}/F_raw")
    batch = Batch(torch.arange(4), label=one.array("class_labels").argmax(1))
    with torch.no_grad():
        found = one.network.raw(one.array("x"), noise, None, batch)
        image = one.network(one.array("x"), noise, None, batch)
    assert found.shape == expected.shape
    assert error(found, expected) < TOLERANCE
    assert torch.equal(image, found[:, :3])


@pytest.mark.parametrize("kind", ["edm", "vp"])
@pytest.mark.parametrize("name", NAMES)
def test_losses_and_the_gradients_of_all_parameters_equal_edms(name: str, kind: str) -> None:
    one = golden(name, kind)
    if kind == "edm":
        sigma = (one.array("edm/loss_rnd_normal").flatten() * 1.2 - 1.2).exp()
        weight = EDMWeighting(0.5)(sigma)
    else:
        sigma = VPPath().sigma(1 + one.array("vp/loss_rnd_uniform").flatten() * (1e-5 - 1))
        weight = inverse_square(sigma)
    y = one.array(f"{kind}/loss_images")
    x = y + one.array(f"{kind}/loss_unit_noise") * expand(sigma, y)
    batch = Batch(torch.arange(4), label=one.array("class_labels").argmax(1))
    loss = expand(weight, y) * (one.model.denoise(x, sigma, None, batch) - y) ** 2
    assert error(loss.detach(), one.array(f"{kind}/loss_map")) < TOLERANCE
    one.network.zero_grad()
    (loss.sum() / len(y)).backward()
    norms = one.array(f"{kind}/grad_norms")
    names = [str(key).removeprefix("model.") for key in one.data["param_names"]]
    tolerance = GRADIENT_TOLERANCE.get(kind, TOLERANCE)
    parameters = dict(one.network.named_parameters())
    assert set(names) == set(parameters)
    for key, expected in zip(names, norms.tolist(), strict=True):
        gradient = parameters[key].grad
        if gradient is None:
            assert math.isnan(expected), f"{key} has no gradient here"
        else:
            assert float(gradient.double().norm()) == pytest.approx(expected, rel=tolerance), key
    ours = [math.nan if (slope := parameters[key].grad) is None else float(slope.double().norm()) for key in names]
    assert error(torch.tensor(ours).nan_to_num(), norms.float().nan_to_num()) < TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_images_of_eight_heun_steps_equal_edms(name: str) -> None:
    one = golden(name, "edm")
    levels = sampling_levels("rho", 8, 0.002, 80.0)
    batch = Batch(torch.arange(2), label=one.array("sample/labels").argmax(1))
    field = ScoreField(lambda *given: one.model(*given[:2], None, batch), Euclidean({"x": (3, 32, 32)}), batch)
    start = {"x": one.array("sample/latents").double() * 80.0}
    with torch.no_grad():
        found = Heun().run(field, start, levels, SampleStreams(0, range(2), "unused"))["x"]
    assert error(found, one.array("sample/edm_heun8")) < TOLERANCE
