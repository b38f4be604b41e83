"""EDM's pickles as models of ours: converted, sampled from, given latents."""

from pathlib import Path

import numpy as np
import pytest
import torch

from core.checkpoint import read_manifest
from core.config_file import parse_config
from core.convert import convert
from core.errors import CheckpointError
from core.pipeline import Pipeline
from core.training.run import train
from core.types import Batch
from domains.images.published.convert import NOISE
from tests.test_images_published import content, dumped, made


def converted(tmp_path: Path, kind: str = "DhariwalUNet", precond: str = "EDMPrecond") -> Path:
    file, out = tmp_path / "edm.pkl", tmp_path / "model"
    file.write_bytes(dumped(content(kind, precond)))
    notes = convert(file, out)
    assert any("CC BY-NC-SA" in note for note in notes)
    return out


@pytest.mark.parametrize("precond", ["EDMPrecond", "VPPrecond", "VEPrecond", "iDDPMPrecond"])
@pytest.mark.parametrize("kind", ["SongUNet", "DhariwalUNet"])
def test_a_converted_network_denoises_as_the_one_in_the_file(tmp_path: Path, kind: str, precond: str) -> None:
    pipeline = Pipeline.from_pretrained(converted(tmp_path, kind, precond), "cpu")
    denoiser = pipeline.networks["denoiser"]
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    noise, batch = torch.tensor([0.3, -0.8]), Batch(torch.arange(2), label=torch.tensor([0, 2]))
    with torch.no_grad():
        expected = made(kind, precond)(x, noise, None, batch)
        assert torch.equal(denoiser.network(x, noise, None, batch), expected)  # type: ignore[operator, union-attr]
        assert pipeline.generate(count=2, steps=3).state["x"].isfinite().all()


def test_the_configuration_says_what_the_file_said(tmp_path: Path) -> None:
    manifest = read_manifest(converted(tmp_path, "SongUNet", "VPPrecond"))
    model = manifest.config.model
    assert (model.resolution, model.image_channels, model.classes, model.denoiser.network) == (8, 3, 3, "song")
    assert (model.noise.precondition, model.noise.distribution) == ("vp", "linear-beta")
    assert manifest.config.latents.kind == "none"
    assert manifest.licence == "that of the source"


def test_iddpm_networks_are_trained_on_by_their_own_loss() -> None:
    """EDM table 1: noise prediction, weight 1 / sigma^2."""
    assert {NOISE[name]["weighting"] for name in ("VPPrecond", "VEPrecond", "iDDPMPrecond")} == {"inverse-square"}


def test_latents_are_added_to_a_converted_network_without_changing_it(tmp_path: Path) -> None:
    base, images = converted(tmp_path), tmp_path / "images.npz"
    generator = np.random.default_rng(0)
    np.savez(images, images=generator.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8), labels=np.arange(12) % 3)
    tree = read_manifest(base).config.model_dump(mode="json")
    tree["latents"] |= {"kind": "discrete", "count": 3, "codes": 4}
    tree["model"]["data"]["source"] = str(images)
    tree["model"]["latent_tokens"] |= {"width": 16, "depth": 1, "heads": 2}
    tree["model"]["vit"] |= {"embed_dim": 16, "depth": 1, "num_heads": 2}
    tree["train"] = {"denoiser": {"initial": str(base), "steps": 1, "lr": 1e-12, "batch": 2}}
    run = train(parse_config(tree, "test"), tmp_path / "run", quiet=True, stage="denoiser")
    model, plain = Pipeline.from_pretrained(run, "cpu"), Pipeline.from_pretrained(base, "cpu")
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    batch, sigma = Batch(torch.arange(2), {"x": x}, label=torch.tensor([0, 2])), torch.tensor([0.5, 3.0])
    latents = model.encode(batch, seed=0)
    with torch.no_grad():
        ours = model.networks["denoiser"].denoise(x, sigma, latents, batch)  # type: ignore[operator]
        theirs = plain.networks["denoiser"].denoise(x, sigma, None, batch)  # type: ignore[operator]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_nothing_is_kept_of_a_file_that_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "edm.pkl"
    file.write_bytes(dumped(content())[:-100])
    with pytest.raises(CheckpointError, match=r"edm\.pkl"):
        convert(file, tmp_path / "model")
    assert not (tmp_path / "model").exists()
