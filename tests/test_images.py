"""Images: data, networks, pictures and judges."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from core.config import LatentConfig
from core.errors import ConfigError, DataError
from core.pipeline import Generated, Pipeline
from core.types import Batch, Latents
from domains.images.config import ViTConfig
from domains.images.data import load_images
from domains.images.domain import ImageDomain, enlargement
from domains.images.encoder import ViTEncoder
from domains.images.metrics import class_accuracy, evaluate_images, hidden_features
from domains.images.networks.adm import DhariwalUNet
from domains.images.torchvision_shim import import_timm
from domains.images.write import grid, save_png, to_bytes, write_images
from tests.support import tiny_config

SIZE = 3


def domain(name: str = "images", *overrides: str) -> ImageDomain:
    torch.manual_seed(0)
    return ImageDomain(tiny_config(name, overrides))


def unet(name: str = "images", *overrides: str, stir: bool = False) -> DhariwalUNet:
    """Raw network; stirred: no layer is left at its zero start."""
    network = domain(name, *overrides).denoiser().network
    assert isinstance(network, DhariwalUNet)
    if stir:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def inputs(label: int = 1) -> tuple[Tensor, Tensor, Batch]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(SIZE, 1, 8, 8, generator=generator)
    return noise, torch.zeros(SIZE), Batch(torch.arange(SIZE), label=torch.full((SIZE,), label))


def latents(code: int = 0, keep: bool = True) -> Latents:
    values = torch.nn.functional.one_hot(torch.full((SIZE, 3), code), 4).float()
    return Latents(values, torch.full((SIZE,), keep))


def digits(split: str = "train", count: int = SIZE) -> Batch:
    return load_images("digits", split).load(range(count), range(count))


def test_digits_lie_between_minus_one_and_one() -> None:
    images = load_images("digits", "all").fields["x"]
    assert images.shape == (1797, 1, 8, 8)
    assert (float(images.min()), float(images.max())) == (-1.0, 1.0)


def test_train_and_validation_digits_are_disjoint_and_complete() -> None:
    train, val, every = (load_images("digits", split) for split in ("train", "val", "all"))
    assert (len(train), len(val), len(every)) == (1617, 180, 1797)

    def rows(images: Tensor) -> set[bytes]:
        return {image.numpy().tobytes() for image in images}

    assert rows(train.fields["x"]).isdisjoint(rows(val.fields["x"]))
    assert rows(train.fields["x"]) | rows(val.fields["x"]) == rows(every.fields["x"])
    assert val.label is not None
    assert val.label.unique().tolist() == list(range(10))


@pytest.mark.parametrize(("name", "split"), [("cifar", "train"), ("digits", "test")])
def test_unknown_data_is_named_with_what_is_known(name: str, split: str) -> None:
    with pytest.raises(DataError, match=r"unknown .* known: .*(digits|train)"):
        load_images(name, split)


def test_without_latents_the_unet_has_no_tokens() -> None:
    network = unet("images-plain", stir=True)
    x, noise, batch = inputs()
    assert network.latents is None
    assert network(x, noise, None, batch).shape == x.shape


def test_codes_change_the_picture_and_dropped_ones_do_not() -> None:
    network = unet(stir=True)
    x, noise, batch = inputs()
    first, second = (network(x, noise, latents(code), batch) for code in (0, 1))
    assert (first != second).flatten(1).any(1).all()
    dropped = [network(x, noise, latents(code, keep=False), batch) for code in (0, 1)]
    assert torch.equal(*dropped)
    assert not torch.equal(dropped[0], first)


def test_every_latent_has_a_table_of_its_own() -> None:
    network = unet(stir=True)
    x, noise, batch = inputs()
    for slot in range(3):
        values = latents().values.clone()
        values[:, slot] = values[:, slot].roll(1, dims=-1)
        changed = network(x, noise, Latents(values, torch.ones(SIZE, dtype=torch.bool)), batch)
        assert not torch.equal(changed, network(x, noise, latents(), batch)), slot


@pytest.mark.parametrize(("zero_init", "same"), [("true", True), ("false", False)])
def test_zero_started_latents_leave_a_trained_model_as_it_was(zero_init: str, same: bool) -> None:
    network = unet("images", f"model.latent_tokens.zero_init={zero_init}")
    with torch.no_grad():
        network.out_conv.weight.normal_(generator=torch.Generator().manual_seed(0))
    x, noise, batch = inputs()
    assert torch.equal(network(x, noise, latents(0), batch), network(x, noise, latents(1), batch)) is same


def test_an_untrained_unet_answers_zero() -> None:
    x, noise, batch = inputs()
    assert not unet()(x, noise, latents(), batch).any()


def test_the_class_is_used_and_the_last_number_drops_it() -> None:
    network = unet(stir=True)
    pictures = [network(inputs(label)[0], inputs(label)[1], latents(), inputs(label)[2]) for label in (1, 2, 10)]
    assert not torch.equal(pictures[0], pictures[1])
    x, noise, batch = inputs()
    assert torch.equal(pictures[2], network(x, noise, latents(), batch.with_label(None)))
    assert unet("images-plain", "model.classes=0", "model.class_drop=0").map_label is None


def test_the_noise_level_is_used() -> None:
    network = unet(stir=True)
    x, noise, batch = inputs()
    assert not torch.equal(network(x, noise, latents(), batch), network(x, noise + 1, latents(), batch))


@pytest.mark.parametrize("count", [1, 3, 7])
def test_the_encoder_has_one_token_per_latent(count: int) -> None:
    encoder = domain("images", f"latents.count={count}").encoder()
    assert encoder.vit.num_prefix_tokens == count
    assert encoder(digits()).values.shape == (SIZE, count, 4)


def sizes(encoder: ViTEncoder) -> tuple[int, int, int, int]:
    vit = encoder.vit
    return vit.patch_embed.patch_size[0], vit.embed_dim, len(vit.blocks), vit.blocks[0].attn.num_heads


@pytest.mark.parametrize(
    ("vit", "expected"),
    [
        ({}, (2, 64, 3, 4)),
        ({"patch_size": 4}, (4, 64, 3, 4)),
        ({"name": "test_vit"}, (16, 64, 6, 2)),
        ({"name": "test_vit", "depth": 1, "patch_size": 8}, (8, 64, 1, 2)),
        ({"name": "vit_tiny_patch16_224", "patch_size": 2, "embed_dim": 64, "depth": 3, "num_heads": 4}, (2, 64, 3, 4)),
    ],
)
def test_a_named_vit_has_its_own_sizes_where_none_are_given(
    vit: dict[str, Any], expected: tuple[int, int, int, int]
) -> None:
    config = ViTConfig.model_validate(vit)
    assert ViTConfig.model_validate(config.model_dump()) == config  # as saved models are read
    given = config.model_dump(exclude={"name"})
    assert sizes(ViTEncoder(config.name, 32, 1, LatentConfig(count=3, codes=4), **given)) == expected


@pytest.mark.parametrize(
    ("name", "given", "reason"),
    [
        ("deit_tiny_distilled_patch16_224", {}, "distilled head"),
        ("vit_small_r26_s32_224", {"patch_size": 8}, "stem"),
        ("test_vit", {"num_heads": 3}, "num_heads"),
        ("test_vit", {}, "24 pixels are no multiple of the 16"),
        ("resnet18", {}, "extra tokens"),
        ("vit_gigantic", {}, "no model"),
    ],
)
def test_models_that_cannot_be_the_encoder_are_named_with_the_reason(
    name: str, given: dict[str, int], reason: str
) -> None:
    with pytest.raises(ConfigError, match=f"'{name}'") as caught:
        ViTEncoder(name, 24, 3, LatentConfig(count=3, codes=4), **given)
    assert reason in str(caught.value)


def test_logits_depend_on_the_image_and_on_nothing_else_of_the_batch() -> None:
    encoder = domain().encoder().eval()
    batch = digits(count=4)
    whole = encoder(batch).values
    assert len(whole.unique(dim=0)) == 4
    torch.testing.assert_close(encoder(batch.select(slice(2, 3))).values, whole[2:3])
    assert torch.equal(encoder(batch.with_label(torch.zeros(4, dtype=torch.int64))).values, whole)


def test_timm_and_torchvision_can_be_imported_here() -> None:
    timm = import_timm()
    assert timm is import_timm()
    assert "torchvision" in sys.modules
    assert timm.list_models("vit_tiny*")


def test_bytes_cover_0_to_255_and_come_back() -> None:
    levels = torch.arange(256)
    images = (levels.double() / 127.5 - 1).reshape(1, 1, 16, 16)
    assert to_bytes(images).flatten().tolist() == levels.tolist()
    assert to_bytes(images.float()).flatten().tolist() == levels.tolist()
    assert to_bytes(torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]).reshape(1, 1, 1, 5)).flatten().tolist() == [
        0, 0, 128, 255, 255,
    ]  # fmt: skip


def test_a_grid_is_laid_out_row_by_row_on_white() -> None:
    images = torch.stack([torch.full((1, 2, 3), value) for value in (-1.0, 1 / 255, 0.2)])
    expected = np.full((7, 9), 255)
    expected[1:3, 1:4], expected[1:3, 5:8], expected[4:6, 1:4] = 0, 128, 153
    sheet = grid(to_bytes(images), columns=2)
    assert sheet.shape == (1, 7, 9)
    assert sheet[0].tolist() == expected.tolist()


@pytest.mark.parametrize(("count", "columns", "shape"), [(1, 1, (10, 10)), (5, 5, (10, 46)), (6, 5, (19, 46))])
def test_a_grid_is_as_large_as_it_must_be(count: int, columns: int, shape: tuple[int, int]) -> None:
    assert grid(torch.zeros(count, 1, 8, 8, dtype=torch.uint8), columns).shape[1:] == shape


@pytest.mark.parametrize(("pixels", "scale"), [(1, 48), (8, 6), (28, 2), (47, 2), (48, 1), (64, 1), (256, 1)])
def test_small_images_are_enlarged_and_large_ones_left_alone(tmp_path: Path, pixels: int, scale: int) -> None:
    assert enlargement(pixels) == scale
    images = torch.zeros(2, 1, pixels, pixels)
    domain().write(Generated({"x": images}, Batch(torch.arange(2)), None, 0), tmp_path)
    (path,) = domain().overview(tmp_path, [0, 1])
    assert path.name == "grid.png"
    assert Image.open(path).size == ((2 * (pixels + 1) + 1) * scale, (pixels + 2) * scale)


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_written_without_loss(tmp_path: Path, channels: int) -> None:
    images = torch.rand(2, channels, 4, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1
    paths = write_images(images, [7, 123456], tmp_path)
    assert [p.name for p in paths] == ["000007.png", "123456.png"]
    for path, picture in zip(paths, to_bytes(images), strict=True):
        array = np.atleast_3d(np.array(Image.open(path)))
        assert torch.equal(torch.from_numpy(array).permute(2, 0, 1), picture)


def test_pictures_are_enlarged_without_smoothing(tmp_path: Path) -> None:
    picture = torch.tensor([[[0, 100], [200, 50]]], dtype=torch.uint8)
    array = np.array(Image.open(save_png(picture, tmp_path / "x.png", scale=3)))
    assert array.tolist() == np.kron(picture[0].numpy(), np.ones((3, 3), dtype=np.uint8)).tolist()


def test_the_judge_knows_real_digits_and_not_wrong_labels() -> None:
    val = load_images("digits", "val")
    assert val.label is not None
    assert class_accuracy("digits", val.fields["x"], val.label) > 0.95
    assert class_accuracy("digits", val.fields["x"], (val.label + 1) % 10) < 0.05


def test_features_are_the_hidden_layer_of_the_small_classifier() -> None:
    features = hidden_features("digits", digits(count=5).clean["x"])
    assert features.shape == (5, 64)
    assert (features >= 0).all()
    assert len(features.unique(dim=0)) == 5


def test_real_images_are_at_distance_zero_from_themselves_and_noise_is_far() -> None:
    real = load_images("digits", "all")
    assert real.label is not None
    row = evaluate_images("digits", real.fields["x"], real.label)
    assert row["class_accuracy"] > 0.99
    assert row["fd_hidden"] == pytest.approx(0, abs=1e-3)
    assert row["fd_pixels"] == pytest.approx(0, abs=1e-3)
    noise = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    far = evaluate_images("digits", noise, torch.zeros(200, dtype=torch.int64))
    assert far["fd_hidden"] > 10
    assert far["fd_pixels"] > 10


def test_values_outside_the_range_count_as_the_range() -> None:
    batch = digits(count=20)
    assert batch.label is not None
    row = evaluate_images("digits", batch.clean["x"], batch.label)
    stretched = torch.where(batch.clean["x"] == 1, 5.0, batch.clean["x"])
    assert evaluate_images("digits", stretched, batch.label) == row


@pytest.mark.parametrize(
    ("name", "pictures"),
    [("images", {"samples": (10, 4), "shared-latents": (10, 4), "swapped-latents": (10, 4)}),
     ("images-plain", {"samples": (10, 4)})],
)  # fmt: skip
def test_figures_are_grids_of_their_size(
    trained: Callable[[str], Path], tmp_path: Path, name: str, pictures: dict[str, tuple[int, int]]
) -> None:
    pipeline = Pipeline.from_pretrained(trained(name), "cpu")
    files = pipeline.domain.figures(pipeline, tmp_path)
    assert {p.stem for p in files} == set(pictures)
    for path in files:
        columns, rows = pictures[path.stem]
        assert Image.open(path).size == ((9 * columns + 1) * 6, (9 * rows + 1) * 6)
