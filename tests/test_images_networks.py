"""EDM's image networks: sizes, names, invariances, layers against plain formulas, and how latents enter."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from core.errors import ConfigError
from core.precondition import EDMPrecondition, PreconditionedDenoiser, VEPrecondition, VPPrecondition
from core.types import Batch, Latents
from domains.images.networks.adm import ADMSettings, DhariwalUNet
from domains.images.networks.attention import pixel_attention
from domains.images.networks.layers import Block, Conv, Resample, group_norm
from domains.images.networks.song import SongSettings, SongUNet
from domains.images.networks.tokens import LatentSettings, LatentTokens
from domains.images.networks.unet import ImageUNet
from tests.support import ROOT

KINDS = ("ddpmpp", "ncsnpp", "adm")
SMALL: dict[str, Any] = {"channel_mult": (1, 2), "num_blocks": 1, "attn_resolutions": (8, 4), "dropout": 0.0}
NOISE = torch.tensor([-1.0, 0.5, 2.0])
LATENTS = LatentSettings(count=4, codes=5, width=16, depth=1, heads=2, zero_init=False)


def build(kind: str, latents: LatentSettings | None = None, **changes: Any) -> ImageUNet:
    """A small network for 8 pixels whose every layer does something: those that start at zero are made random."""
    torch.manual_seed(0)
    network: ImageUNet
    if kind == "adm":
        sizes = {"model_channels": 16, "channels_per_head": 16, **SMALL, **changes}
        network = DhariwalUNet(ADMSettings(8, **sizes), latents)
    else:
        sizes = {"model_channels": 16, "augment_dim": 0, **SMALL, **changes}
        network = SongUNet(getattr(SongSettings, kind)(8, **sizes), latents)
    for name, parameter in network.named_parameters():
        if "latents" not in name:
            nn.init.normal_(parameter, std=0.2)
    return network


def images(size: int = 3) -> Tensor:
    return torch.randn(size, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def codes(*rows: tuple[int, ...]) -> Latents:
    values = functional.one_hot(torch.tensor(rows), LATENTS.codes).float()
    return Latents(values, torch.ones(len(rows), dtype=torch.bool))


def some_codes() -> Latents:
    return codes((0, 1, 2, 3), (4, 4, 0, 1), (2, 2, 2, 2))


def batch(**fields: Any) -> Batch:
    return Batch(torch.arange(3), **fields)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def latent_places(network: ImageUNet) -> dict[str, list[str]]:
    """Blocks with cross-attention, in the encoder and in the decoder."""
    parts = {"enc": network.enc, "dec": network.dec}
    return {
        part: [name for name, block in modules.items() if isinstance(block, Block) and block.latents is not None]
        for part, modules in parts.items()
    }


def test_the_published_networks_have_their_numbers_of_parameters() -> None:
    with torch.device("meta"):
        assert count(DhariwalUNet(ADMSettings.imagenet64())) == 295_899_267
        assert count(SongUNet(SongSettings.ddpmpp(32, label_dim=10))) == 55_735_299
        assert count(SongUNet(SongSettings.ncsnpp(32))) == 56_397_827
        assert count(SongUNet(SongSettings.ddpmpp(64))) == 61_805_571
        assert count(SongUNet(SongSettings.ncsnpp(64))) == 62_761_091


def test_latents_enter_imagenet_64_after_all_of_its_22_self_attentions() -> None:
    with torch.device("meta"):
        network = DhariwalUNet(ADMSettings.imagenet64(), LatentSettings(10, 100))
        hierarchy = DhariwalUNet(ADMSettings.imagenet64(), LatentSettings(30, 100, groups=(8, 16, 32)))
    places = latent_places(network)
    assert (len(places["enc"]), len(places["dec"])) == (9, 13)
    attending = [n for n, m in network.named_modules() if isinstance(m, Block) and m.heads]
    assert len(attending) == 22
    assert count(network) - sum(p.numel() for n, p in network.named_parameters() if "latents" in n) == 295_899_267
    places = latent_places(hierarchy)
    assert places["enc"] == []
    assert [sum(n.startswith(f"{size}x") for n in places["dec"]) for size in (8, 16, 32)] == [5, 4, 4]


def test_parameters_have_the_names_of_edms_checkpoints() -> None:
    keys = set(build("ncsnpp", num_blocks=2, label_dim=3, augment_dim=2).state_dict())
    assert {"map_noise.freqs", "map_label.weight", "map_label.bias", "map_augment.weight", "map_layer1.bias"} <= keys
    assert {"enc.8x8_conv.weight", "enc.4x4_down.conv0.weight", "enc.4x4_aux_residual.bias"} <= keys
    assert {"enc.8x8_block1.qkv.weight", "enc.8x8_block0.norm2.bias", "enc.8x8_block0.proj.bias"} <= keys
    assert {"dec.4x4_in0.qkv.bias", "dec.4x4_in1.affine.weight", "dec.8x8_up.skip.weight"} <= keys
    assert {"dec.8x8_block2.norm1.weight", "dec.8x8_aux_norm.weight", "dec.8x8_aux_conv.bias"} <= keys
    assert not {key for key in keys if key.startswith("dec.8x8_block0.qkv") or "kernel" in key or "latents" in key}
    keys = set(build("adm", label_dim=3).state_dict())
    assert {"out_norm.weight", "out_conv.bias", "map_label.weight", "dec.8x8_block0.qkv.weight"} <= keys
    assert not {"map_label.bias", "enc.4x4_down.skip.weight", "map_noise.freqs"} & keys


def test_adm_has_no_attention_where_a_head_has_too_few_channels() -> None:
    network = DhariwalUNet(ADMSettings(8, model_channels=32, **SMALL))
    assert {n for n, m in network.named_modules() if isinstance(m, Block) and m.heads} == {
        "enc.4x4_block0",
        "dec.4x4_in0",
        "dec.4x4_block0",
        "dec.4x4_block1",
    }


def test_fresh_networks_start_as_edm_starts_them() -> None:
    song = SongUNet(SongSettings.ddpmpp(8, model_channels=32, **SMALL))
    block: Any = song.enc["8x8_block0"]
    assert float(block.conv0.weight.detach().abs().max()) == pytest.approx((6 / (9 * 64)) ** 0.5, rel=1e-2)
    assert float(block.conv1.weight.detach().abs().max()) == pytest.approx(1e-5 * (6 / (9 * 64)) ** 0.5, rel=1e-2)
    assert float(block.qkv.weight.detach().abs().max()) == pytest.approx((0.2 * 6 / 128) ** 0.5, rel=1e-2)
    assert not any(float(p.detach().abs().max()) for n, p in song.named_parameters() if n.endswith("bias"))
    adm = DhariwalUNet(ADMSettings(8, model_channels=32, augment_dim=2, **SMALL))
    assert not adm(images(), NOISE, None, batch()).any()
    block = adm.enc["8x8_block0"]
    assert float(block.conv0.bias.detach().abs().max()) == pytest.approx((9 * 32) ** -0.5, rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_images_and_samples_do_not_see_each_other(kind: str) -> None:
    network = build(kind, out_channels=6).double()
    x, noise = images().double(), NOISE.double()
    whole = network.raw(x, noise, None, batch())
    assert whole.shape == (3, 6, 8, 8)
    assert whole.dtype == torch.float64
    assert torch.equal(network(x, noise, None, batch()), whole[:, :3])
    alone = network.raw(x[1:2], noise[1:2], None, Batch(torch.arange(1)))
    torch.testing.assert_close(alone, whole[1:2], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_inference_equals_training_and_leaves_its_input_alone(kind: str) -> None:
    network, x = build(kind, LATENTS), images()
    before = x.clone()
    found = network(x, NOISE, some_codes(), batch())
    with torch.inference_mode():
        torch.testing.assert_close(network(x, NOISE, some_codes(), batch()), found, rtol=1e-5, atol=1e-6)
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(network(last, NOISE, some_codes(), batch()), found, rtol=1e-5, atol=1e-6)
    assert torch.equal(x, before)


@pytest.mark.parametrize("kind", KINDS)
def test_dropped_classes_and_missing_augmentation_labels_are_zeros(kind: str) -> None:
    network, x = build(kind, label_dim=4, augment_dim=2), images()
    nothing = network(x, NOISE, None, batch())
    dropped = network(x, NOISE, None, batch(label=torch.full((3,), 4), vector=torch.zeros(3, 2)))
    assert torch.equal(nothing, dropped)
    assert not torch.allclose(nothing, network(x, NOISE, None, batch(label=torch.tensor([0, 1, 2]))))
    assert not torch.allclose(nothing, network(x, NOISE, None, batch(vector=torch.ones(3, 2))))


@pytest.mark.parametrize("encoder", ["standard", "skip", "residual"])
def test_every_parameter_of_every_song_variant_has_a_gradient(encoder: str) -> None:
    network = build("ncsnpp", encoder_type=encoder, decoder_type="skip", label_dim=3, augment_dim=2)
    given = batch(label=torch.arange(3), vector=torch.ones(3, 2))
    network(images(), NOISE, None, given).square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_half_precision_weights_run_in_half_precision() -> None:
    network = build("adm", LATENTS).bfloat16()
    out = network(images().bfloat16(), NOISE.bfloat16(), some_codes(), batch())
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()


# --- latents ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("groups", [(), (4, 8)])
def test_added_latents_change_nothing_at_first(kind: str, groups: tuple[int, ...]) -> None:
    settings = LatentSettings(4, 5, width=16, depth=1, heads=2, groups=groups, null_token=True)
    plain, network = build(kind), build(kind, settings)
    missing, unexpected = network.load_state_dict(plain.state_dict(), strict=False)
    assert all("latents" in key for key in missing)
    assert unexpected == []
    expected = plain(images(), NOISE, None, batch())
    assert torch.equal(network(images(), NOISE, some_codes(), batch()), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("groups", [(), (4, 8)])
def test_latents_act_and_get_gradients_until_they_are_dropped(kind: str, groups: tuple[int, ...]) -> None:
    settings = LatentSettings(4, 5, width=16, depth=1, heads=2, groups=groups, null_token=True, zero_init=False)
    model = PreconditionedDenoiser(build(kind, settings), EDMPrecondition(0.5))
    values = some_codes().values.requires_grad_()
    keep = torch.tensor([True, False, True])
    out = model.denoise(images(), NOISE.exp(), Latents(values, keep), batch())
    out.square().sum().backward()
    assert values.grad is not None
    assert values.grad.flatten(1).any(1).tolist() == keep.tolist()
    assert [n for n, p in model.named_parameters() if "latents" in n and (p.grad is None or not p.grad.any())] == []
    other = Latents(codes((1, 1, 1, 1), (0, 1, 0, 1), (3, 3, 3, 3)).values, keep)
    changed = (model.denoise(images(), NOISE.exp(), other, batch()) != out).flatten(1).any(1)
    assert changed.tolist() == keep.tolist()


@pytest.mark.parametrize("kind", ["ddpmpp", "adm"])
def test_a_group_acts_from_its_own_resolution_of_the_decoder_on(kind: str) -> None:
    settings = LatentSettings(4, 5, width=16, depth=1, heads=2, groups=(4, 8), zero_init=False)
    network = build(kind, settings)
    seen: dict[str, Tensor] = {}
    for part, modules in (("enc", network.enc), ("dec", network.dec)):
        for name, module in modules.items():
            if isinstance(module, Block):
                key = f"{part}.{name}"
                module.register_forward_hook(lambda _m, _i, out, key=key: seen.__setitem__(key, out.clone()))

    def record(latents: Latents) -> dict[str, Tensor]:
        seen.clear()
        network(images(), NOISE, latents, batch())
        return dict(seen)

    def changed(latents: Latents) -> set[str]:
        return {name for name, out in record(latents).items() if not torch.equal(out, reference[name])}

    reference = record(codes((0, 1, 2, 3), (0, 1, 2, 3), (0, 1, 2, 3)))
    high = changed(codes((0, 1, 4, 4), (0, 1, 4, 4), (0, 1, 4, 4)))
    low = changed(codes((4, 4, 2, 3), (4, 4, 2, 3), (4, 4, 2, 3)))
    assert high
    assert all(name.startswith("dec.8x8_block") for name in high)
    assert low == {name for name in reference if name.startswith("dec.")}


def test_a_null_token_is_one_token_more_that_no_latent_changes() -> None:
    settings = LatentSettings(4, 5, width=16, depth=1, heads=2, null_token=True, groups=(4, 8))
    tokens = LatentTokens(settings)
    first, second = (tokens(z, torch.float32) for z in (some_codes(), codes((1, 1, 1, 1), (0, 0, 0, 0), (3, 3, 3, 3))))
    assert [t.shape for t in first] == [(3, 3, 16), (3, 3, 16)]
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one[:, -1], other[:, -1])
        assert not torch.equal(one[:, :-1], other[:, :-1])


def test_a_network_says_what_latents_it_needs() -> None:
    with pytest.raises(ValueError, match="built for latents"):
        build("adm", LATENTS)(images(), NOISE, None, batch())
    with pytest.raises(ValueError, match="built without latents"):
        build("adm")(images(), NOISE, some_codes(), batch())


@pytest.mark.parametrize(
    ("message", "make"),
    [
        ("cannot be halved", lambda: SongSettings(12, channel_mult=(1, 1, 1, 1))),
        ("num_blocks", lambda: SongSettings(32, num_blocks=0)),
        ("out_channels", lambda: SongSettings(32, out_channels=1)),
        ("must be even", lambda: SongSettings(32, model_channels=33)),
        ("48 pixels", lambda: SongSettings.ddpmpp(48)),
        ("even number of taps", lambda: Resample("up", (1, 2, 1))),
        ("cannot be normalised", lambda: group_norm(66, 1e-5)),
        ("attention heads", lambda: DhariwalUNet(ADMSettings(8, model_channels=48, channels_per_head=9, **SMALL))),
        ("split evenly", lambda: LatentSettings(10, 100, groups=(8, 16, 32))),
        ("must increase", lambda: LatentSettings(4, 5, groups=(16, 8))),
        ("none at", lambda: build("adm", LatentSettings(4, 5, groups=(2, 8)))),
        ("none at", lambda: build("adm", LATENTS, channels_per_head=64)),
    ],
)
def test_sizes_that_do_not_fit_are_named(message: str, make: Any) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


# --- layers against plain formulas, in float64 ---


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1), (1, 0, 2, 3, 1, 1)])
def test_resampling_is_a_convolution_and_its_adjoint(taps: tuple[int, ...]) -> None:
    x, y = images().double(), torch.randn(3, 3, 16, 16, dtype=torch.float64)
    up, down = Resample("up", taps).double()(x), Resample("down", taps).double()(y)
    line = torch.tensor(taps, dtype=torch.float64) / sum(taps)
    padded = functional.pad(y, [len(taps) // 2 - 1] * 4)
    windows = padded.unfold(2, len(taps), 2).unfold(3, len(taps), 2)
    torch.testing.assert_close(down, torch.einsum("bchwij,i,j->bchw", windows, line, line))
    assert up.shape == y.shape
    # Four times as many pixels share the brightness of one.
    torch.testing.assert_close((up * y).sum(), 4 * (x * down).sum())
    ones = Resample("up", taps).double()(torch.ones(1, 1, 8, 8, dtype=torch.float64))
    torch.testing.assert_close(ones[..., 4:-4, 4:-4], torch.ones(1, 1, 8, 8, dtype=torch.float64))


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
def test_convolutions_resample_before_or_after(taps: tuple[int, ...]) -> None:
    x, margin = images().double(), len(taps) // 2 - 1
    up, down = Resample("up", taps).double(), Resample("down", taps).double()
    for size in (1, 3):
        conv = Conv(3, 4, size, up).double()
        plain = functional.conv2d(up(x), conv.weight, conv.bias, padding=size // 2)
        torch.testing.assert_close(conv(x), plain)
        conv = Conv(3, 4, size, down).double()
        torch.testing.assert_close(conv(x), functional.conv2d(down(x), conv.weight, conv.bias, padding=size // 2))
    conv = Conv(3, 4, 3, down, after=True).double()
    wide = functional.conv2d(functional.pad(x, [margin + 1] * 4), conv.weight)
    torch.testing.assert_close(conv(x), down(wide, padded=True) + conv.get_parameter("bias")[:, None, None])
    assert conv(x).shape == (3, 4, 4, 4)


def test_pixel_attention_is_softmax_attention_with_interleaved_heads() -> None:
    qkv, proj = Conv(8, 24, 1).double(), Conv(8, 8, 1).double()
    x = torch.randn(2, 8, 4, 6, dtype=torch.float64)
    query, key, value = functional.conv2d(x, qkv.weight, qkv.bias).reshape(2, 2, 4, 3, 24).unbind(3)
    weights = (torch.einsum("bhcq,bhck->bhqk", query, key) / 2).softmax(-1)
    mixed = torch.einsum("bhqk,bhck->bhcq", weights, value).reshape(2, 8, 4, 6)
    expected = functional.conv2d(mixed, proj.weight, proj.bias)
    torch.testing.assert_close(pixel_attention(x, qkv, proj, 2), expected)
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(pixel_attention(last, qkv, proj, 2), expected)


def waves(network: nn.Module) -> None:
    """Weights that follow from their names alone, so that EDM's network could be given the same."""
    with torch.no_grad():
        for number, (name, value) in enumerate(sorted(network.state_dict().items())):
            wave = torch.sin(0.7 * torch.arange(value.numel(), dtype=torch.float64) + number).reshape(value.shape)
            scale, base = 16.0 if name.endswith("freqs") else 0.2, float("norm" in name and name.endswith("weight"))
            value.copy_(base + scale * wave)


@pytest.mark.parametrize("kind", ["vp", "ve"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ncsnpp_is_edms_where_fourier_features_amplify_rounding(kind: str, dtype: torch.dtype) -> None:
    """tests/data/images/edm_ncsnpp.npz holds what EDM's SongUNet says of this input (NVlabs/edm, commit 008a4e5)."""
    with np.load(ROOT / "tests" / "data" / "images" / "edm_ncsnpp.npz") as file:
        theirs = torch.from_numpy(file[kind])
    sizes: dict[str, Any] = {"channel_mult": (1, 2), "channel_mult_emb": 2, "num_blocks": 1, "attn_resolutions": (4,)}
    network = SongUNet(SongSettings.ncsnpp(8, model_channels=16, augment_dim=0, **sizes)).eval()
    waves(network)
    sigma = torch.tensor([0.002, 0.05, 5.0])
    x = torch.sin(0.9 * torch.arange(3 * 3 * 64, dtype=torch.float64)).reshape(3, 3, 8, 8).float()
    x = (x * sigma.clamp(min=0.5)[:, None, None, None]).to(dtype)  # a sampler's state is float64
    denoiser = PreconditionedDenoiser(network, VPPrecondition() if kind == "vp" else VEPrecondition())
    with torch.no_grad():
        ours = denoiser.denoise(x, sigma.to(dtype), None, Batch(torch.arange(3))).float()
    assert ((ours - theirs).flatten(1).norm(dim=1) / theirs.flatten(1).norm(dim=1)).max() < 1e-5
