"""U-ViT: sizes of the paper, the Transformer block written out, conditions, latents, checkpointing, bad settings."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from core.errors import ConfigError
from core.precondition import EDMPrecondition, PreconditionedDenoiser
from core.types import Batch, Latents
from domains.images.networks.attention import LatentAttention
from domains.images.networks.tokens import LatentSettings
from domains.images.networks.uvit import Bottleneck, UViT, UViTSettings, ViTBlock

SIZE, CLASSES, AUGMENT = 2, 3, 2
SETTINGS = UViTSettings(
    img_resolution=16,
    label_dim=CLASSES,
    augment_dim=AUGMENT,
    model_channels=16,
    channel_mult=(1, 1, 2),  # 16 and 8 pixels, Transformer at 4
    num_blocks=1,
    attn_resolutions=(8,),
    channels_per_head=8,
    vit_depth=4,
    vit_dropout=0.0,
    latent_every=2,
)
LATENTS = LatentSettings(count=4, codes=3, width=8, depth=1, heads=2)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(latents: LatentSettings | None = LATENTS, **changes: Any) -> UViT:
    """Stirred: no layer is left at its zero start, save those through which latents enter."""
    torch.manual_seed(0)
    net = UViT(replace(SETTINGS, **changes), latents).eval()
    with torch.no_grad():
        for parameter in (p for name, p in net.named_parameters() if "latents" not in name):
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def entering(**changes: Any) -> LatentSettings:
    return replace(LATENTS, zero_init=False, **changes)


def inputs() -> tuple[Tensor, Tensor]:
    return random(SIZE, 3, 16, 16), random(SIZE, seed=1)


def batch(label: int = 1) -> Batch:
    return Batch(torch.arange(SIZE), label=torch.full((SIZE,), label), vector=random(SIZE, AUGMENT, seed=2))


def latents(*codes: int, keep: bool = True) -> Latents:
    values = functional.one_hot(torch.tensor(codes or (0, 1, 2, 0)), LATENTS.codes).float()
    return Latents(values.expand(SIZE, -1, -1), torch.full((SIZE,), keep))


def full_size(given: LatentSettings | None) -> UViT:
    with torch.device("meta"):
        return UViT(UViTSettings.imagenet128(), given)


def sites(net: UViT) -> dict[str, LatentAttention]:
    return {name: module for name, module in net.named_modules() if isinstance(module, LatentAttention)}


def bottleneck(net: UViT) -> Bottleneck:
    return next(module for module in net.modules() if isinstance(module, Bottleneck))


def test_imagenet_128_has_the_sizes_of_the_paper() -> None:
    net = full_size(None)
    vit = bottleneck(net)
    assert net.settings.resolutions == (128, 64, 32)
    assert net.settings.widths == (128, 256, 512)
    assert vit.position.shape == (2048, 16, 16)
    w, embedding = 2048, 512
    attention, mlp, affine = 4 * w * w + w, 8 * w * w + 5 * w, 4 * w * (embedding + 1)
    assert sum(p.numel() for p in vit.blocks.parameters()) == 36 * (attention + mlp + affine)
    assert sum(p.numel() for p in net.parameters()) == 2_037_601_283
    assert not sites(net)


def test_imagenet_128_attends_to_latents_where_the_paper_says() -> None:
    net = full_size(LatentSettings(count=10, codes=100))
    blocks = bottleneck(net).blocks
    assert [number for number, block in enumerate(blocks) if block.latents is not None] == list(range(2, 36, 3))
    assert Counter(site.attention.query.in_features for site in sites(net).values()) == {
        2048: 12,  # Transformer
        128: 1,  # down to 64
        256: 2,  # down to 32, up to 128
        512: 3,  # down to 16, up to 32 and 64
    }
    convolutional = [name for name in sites(net) if ".blocks." not in name]
    assert convolutional == [
        "enc.64x64_down.latents",
        "enc.32x32_down.latents",
        "dec.32x32_in0.down.latents",
        "dec.32x32_in1.latents",
        "dec.64x64_up.latents",
        "dec.128x128_up.latents",
    ]


def test_the_output_is_an_image_for_every_sample_alone() -> None:
    net, (x, noise), given = network(entering()), inputs(), batch()
    out = net(x, noise, latents(), given)
    assert out.shape == x.shape
    alone = net(x[1:], noise[1:], latents().select(slice(1, 2)), given.select(slice(1, 2)))
    torch.testing.assert_close(alone, out[1:], rtol=1e-4, atol=1e-5)


def test_channels_of_variances_are_estimated_and_left_out() -> None:
    net, (x, noise) = network(None, out_channels=6), inputs()
    raw = net.raw(x, noise, None, batch())
    assert raw.shape == (SIZE, 6, 16, 16)
    assert torch.equal(net(x, noise, None, batch()), raw[:, :3])


def test_it_is_a_network_for_edm_preconditioning() -> None:
    denoiser = PreconditionedDenoiser(network(), EDMPrecondition())
    x, sigma = inputs()[0].double(), torch.tensor([0.01, 80.0], dtype=torch.float64)
    score = denoiser({"x": x}, sigma, latents(), batch())["x"]
    assert score.dtype == torch.float64
    assert score.isfinite().all()


def test_a_transformer_block_is_attention_and_mlp_on_scaled_and_shifted_norms() -> None:
    torch.manual_seed(0)
    block = ViTBlock(width=16, heads=2, embedding=5, dropout=0.0)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, embedding = random(SIZE, 16, 2, 3), random(SIZE, 5, seed=1)
    scale0, shift0, scale1, shift1 = block.affine(embedding).unflatten(1, (4, 16)).unbind(1)
    for sample in range(SIZE):
        pixels = x[sample].flatten(1).T  # 6 rows of 16
        centred = pixels - pixels.mean(1, keepdim=True)
        normed = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        normed = normed * (1 + scale0[sample]) + shift0[sample]
        pixels = pixels + block.attention(normed[None], normed[None])[0]
        normed = functional.layer_norm(pixels, (16,)) * (1 + scale1[sample]) + shift1[sample]
        pixels = pixels + block.mlp[2](functional.gelu(block.mlp[0](normed)))
        torch.testing.assert_close(block(x, embedding, [])[sample], pixels.T.unflatten(1, (2, 3)), rtol=1e-4, atol=1e-5)


def test_a_new_transformer_block_is_the_identity_and_can_learn() -> None:
    block, x, embedding = ViTBlock(16, 2, 5, 0.0), random(SIZE, 16, 2, 2), random(SIZE, 5, seed=1)
    out = block(x, embedding, [])
    assert torch.equal(out, x)
    out.square().sum().backward()
    assert block.attention.out.weight.grad.abs().sum() > 0
    assert block.mlp[2].weight.grad.abs().sum() > 0


def test_only_the_learned_positions_tell_the_pixels_of_the_transformer_apart() -> None:
    vit = bottleneck(network(None))
    x, embedding = random(SIZE, 16, 8, 8), random(SIZE, SETTINGS.embedding_width, seed=1)
    with torch.no_grad():
        vit.down.conv0.weight[..., [0, 2], :], vit.down.conv1.weight[..., [0, 2], :] = 0, 0  # rows stay apart
        assert not torch.allclose(vit(x.flip(2), embedding, []).flip(2), vit(x, embedding, []), atol=1e-3)
        vit.position.zero_()
        torch.testing.assert_close(vit(x.flip(2), embedding, []).flip(2), vit(x, embedding, []), rtol=1e-4, atol=1e-4)


def test_noise_level_classes_and_augmentation_matter() -> None:
    net, (x, noise), given = network(None), inputs(), batch()
    out = net(x, noise, None, given)
    others = (
        net(x, noise + 1, None, given),
        net(x, noise, None, batch(label=2)),
        net(x, noise, None, batch(label=CLASSES)),
        net(x, noise, None, replace(given, vector=None)),
    )
    assert all(not torch.allclose(out, other, atol=1e-4) for other in others)
    assert torch.equal(others[2], net(x, noise, None, given.with_label(None)))


def test_conditions_reach_the_transformer() -> None:
    net, (x, noise) = network(None), inputs()
    net(x, noise, None, batch()).square().sum().backward()
    for block in bottleneck(net).blocks:
        assert (block.affine.weight.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize("changes", [{}, {"null_token": True}, {"groups": (4, 8)}])
def test_adding_latents_changes_nothing_at_first(changes: dict[str, Any]) -> None:
    base, (x, noise) = network(None), inputs()
    torch.manual_seed(1)
    fine_tuned = UViT(SETTINGS, replace(LATENTS, **changes)).eval()
    missing, unexpected = fine_tuned.load_state_dict(base.state_dict(), strict=False)
    assert missing
    assert all("latents" in name for name in missing)
    assert not unexpected
    expected = base(x, noise, None, batch())
    assert expected.std() > 0.1
    assert torch.equal(fine_tuned(x, noise, latents(), batch()), expected)


@pytest.mark.parametrize("changes", [{}, {"null_token": True}, {"groups": (4, 16)}])
def test_latents_matter_unless_they_are_dropped(changes: dict[str, Any]) -> None:
    net, (x, noise) = network(entering(**changes)), inputs()
    out, other = (net(x, noise, latents(*codes), batch()) for codes in ((0, 1, 2, 0), (2, 0, 1, 1)))
    assert not torch.allclose(out, other, atol=1e-4)
    nothing, none = (net(x, noise, latents(*codes, keep=False), batch()) for codes in ((0, 1, 2, 0), (2, 0, 1, 1)))
    assert torch.equal(nothing, none)
    assert not torch.allclose(out, nothing, atol=1e-4)


def test_the_gradient_reaches_every_latent_and_all_that_they_pass() -> None:
    net, (x, noise) = network(entering(null_token=True)), inputs()
    values = latents().values.clone().requires_grad_()
    net(x, noise, Latents(values, torch.tensor([True, False])), batch()).square().sum().backward()
    assert (values.grad[0].abs().sum(1) > 0).all()
    assert not values.grad[1].any()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_zero_initialised_cross_attention_can_learn() -> None:
    net, (x, noise) = network(), inputs()
    net(x, noise, latents(), batch()).square().sum().backward()
    assert len(sites(net)) == 2 + 2 + 2  # down, Transformer, up
    assert all(site.attention.out.weight.grad.any() for site in sites(net).values())


def test_groups_enter_the_decoder_at_their_resolution_only() -> None:
    net, (x, noise) = network(entering(groups=(4, 8))), inputs()
    assert {name: site.group for name, site in sites(net).items()} == {
        "dec.8x8_in0.blocks.1.latents": 0,
        "dec.8x8_in0.blocks.3.latents": 0,
        "dec.8x8_in1.latents": 1,
    }
    seen: list[Tensor] = []
    bottleneck(net).register_forward_hook(lambda module, args, out: seen.append(out))
    outs = [net(x, noise, latents(*codes), batch()) for codes in ((0, 1, 2, 0), (0, 1, 1, 1), (2, 0, 2, 0))]
    assert torch.equal(seen[0], seen[1])  # the second group comes in above the Transformer
    assert not torch.allclose(outs[0], outs[1], atol=1e-4)
    assert not torch.allclose(seen[0], seen[2], atol=1e-4)


@pytest.mark.parametrize(("latents_given", "built_with"), [(True, None), (False, LATENTS)])
def test_latents_are_given_exactly_to_networks_with_them(
    latents_given: bool, built_with: LatentSettings | None
) -> None:
    with pytest.raises(ValueError, match="latents"):
        network(built_with)(*inputs(), latents() if latents_given else None, batch())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_changes_memory_and_no_gradient(dropout: float) -> None:
    gradients, runs = [], []
    for checkpointing in (False, True):
        net = network(entering(), checkpointing=checkpointing, vit_dropout=dropout).train()
        calls: list[int] = []
        bottleneck(net).blocks[0].register_forward_pre_hook(lambda module, args, calls=calls: calls.append(1))
        torch.manual_seed(3)
        net(*inputs(), latents(), batch()).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in net.named_parameters()})
        runs.append(len(calls))
    assert runs == [1, 2]
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_without_gradients_nothing_is_computed_twice() -> None:
    plain, frugal = network(), network(checkpointing=True)
    with torch.no_grad():
        assert torch.equal(plain(*inputs(), latents(), batch()), frugal(*inputs(), latents(), batch()))


def test_dropout_is_the_transformers_and_acts_in_training_only() -> None:
    net, (x, noise) = network(None, vit_dropout=0.5), inputs()
    assert torch.equal(net(x, noise, None, batch()), network(None)(x, noise, None, batch()))
    net.train()
    assert not torch.allclose(net(x, noise, None, batch()), net(x, noise, None, batch()))
    assert net.settings.dropout == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_mult": (1,)}, "convolutional part"),
        ({"channel_mult": (1, 1, 1, 1, 1, 1)}, "halved 5 times"),
        ({"vit_depth": 0}, "vit_depth"),
        ({"latent_every": 0}, "latent_every"),
        ({"channels_per_head": 0}, "channels_per_head"),
        ({"channels_per_head": 5}, "heads of 5"),
        ({"vit_dropout": 1.0}, "vit_dropout"),
        ({"num_blocks": 0}, "num_blocks"),
    ],
)
def test_sizes_that_do_not_fit_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SETTINGS, **changes)


@pytest.mark.parametrize(
    ("groups", "changes", "missing"),
    [((2, 8), {}, r"\[2\]"), ((4, 8), {"latent_every": 5}, r"\[4\]"), ((8, 32), {}, r"\[32\]")],
)
def test_groups_without_a_place_to_enter_are_named(
    groups: tuple[int, ...], changes: dict[str, Any], missing: str
) -> None:
    with pytest.raises(ConfigError, match=missing):
        UViT(replace(SETTINGS, **changes), replace(LATENTS, groups=groups))
