"""The docking networks against the authors' code."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from domains.docking import state_dicts
from domains.docking.graph import Structure
from domains.docking.networks.denoiser import DockingDenoiser
from domains.docking.networks.latents import NodeLatents
from domains.docking.state_dicts import confidence_from, denoiser_from, encoder_from, prior_from
from tests.docking_support import GOLDEN, NO_GOLDEN, GoldenScale, golden, golden_graph

needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason=NO_GOLDEN)
DTYPES = {torch.float32: ("", 1e-5), torch.float64: ("_f64", 5e-8)}
SCORES = {"disco": "weights_disco_score", "plain": "weights_plain_score"}


def weights(name: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {k: v.to(dtype, copy=True) if v.is_floating_point() else v.clone() for k, v in golden(name).items()}


@cache
def three(dtype: torch.dtype) -> Structure:
    return Structure.of([golden_graph()] * 3).to("cpu", dtype)


def node_latents(inputs: Mapping[str, Tensor], dtype: torch.dtype) -> NodeLatents:
    dropped = inputs["lig_unconditional"].view(3, -1)[:, 0]
    return NodeLatents(inputs["lig_latent"].to(dtype), inputs["rec_latent"].to(dtype), dropped.to(dtype))


def close(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    """Largest difference relative to the largest value."""
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= tolerance * float(theirs.abs().max())


@needs_golden
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", SCORES)
def test_scores_equal_the_authors(kind: str, dtype: torch.dtype) -> None:
    suffix, tolerance = DTYPES[dtype]
    g = golden(f"score_{kind}_6w70")
    model = denoiser_from(weights(SCORES[kind], dtype), GoldenScale())
    latents = node_latents(g["inputs"], dtype) if kind == "disco" else NodeLatents()
    with torch.no_grad():
        out = model.flat_scores(three(dtype), g["inputs"]["lig_pos"].to(dtype), g["inputs"]["t"].to(dtype), latents)
    for name, ours in zip(("tr", "rot", "tor"), out, strict=True):
        close(ours.view(3, -1), g["outputs"][name + suffix], tolerance)


@needs_golden
def test_node_features_equal_the_authors_after_every_layer() -> None:
    g = golden("score_disco_6w70")
    model = denoiser_from(weights("weights_disco_score"), GoldenScale())
    model.backbone.training = True  # only this switch is on: it then computes every residue
    updates: list[Tensor] = []
    for layer in model.backbone.layers:
        layer.norm.register_forward_hook(lambda *call: updates.append(call[2]))
    t, positions = g["inputs"]["t"], g["inputs"]["lig_pos"]
    with torch.no_grad():
        model.flat_scores(three(torch.float32), positions, t, node_latents(g["inputs"], torch.float32))
    nodes = g["intermediates"]["conv0.in_node_attr"]
    for number, update in enumerate(updates):  # the last one is of ligand atoms only, which come first
        irreps = model.backbone.options.irreps(number + 1)
        nodes = nn.functional.pad(nodes, (0, irreps.dim - nodes.shape[1]))[: len(update)] + update
        close(nodes[:, irreps.e3nn_order()], g["intermediates"][f"conv{number}.out"][: len(update)], 1e-5)


@needs_golden
@pytest.mark.parametrize("dtype", DTYPES)
def test_encoder_equals_the_authors(dtype: torch.dtype) -> None:
    suffix, tolerance = DTYPES[dtype]
    g, model = golden("encoder_6w70"), encoder_from(weights("weights_disco_encoder", dtype))
    with torch.no_grad():
        logits = model.logits(three(dtype), g["lig_pos_e"].to(dtype))
    close(logits.values, g["logits" + suffix], tolerance)


@needs_golden
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("slot", [0, 1])
def test_prior_equals_the_authors(slot: int, dtype: torch.dtype) -> None:
    suffix, tolerance = DTYPES[dtype]
    g, model = golden("ar_6w70"), prior_from(weights("weights_ar", dtype), GoldenScale())
    one_hot = torch.cat([g[f"input_latent_lig_{slot}"].view(3, -1, 2), g[f"input_latent_rec_{slot}"].view(3, -1, 2)], 1)
    with torch.no_grad():
        logits = model.logits(three(dtype), g["lig_pos"].to(dtype), one_hot.argmax(1)[:, :slot])
    close(logits.values, g[f"logits_{slot}{suffix}"], tolerance)


@needs_golden
@pytest.mark.parametrize("dtype", DTYPES)
def test_confidence_equals_the_authors(dtype: torch.dtype) -> None:
    suffix, tolerance = DTYPES[dtype]
    g, model = golden("confidence_6w70"), confidence_from(weights("weights_confidence", dtype))
    with torch.no_grad():
        for _ in range(2):  # what is kept of the protein must not change the second call
            close(model(three(dtype), g["lig_pos"].to(dtype)), g["confidence" + suffix], tolerance)


def losses(out: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
    """The authors' loss on the golden noise: squared errors over squared norms, weighted 0.33 each."""
    noise = golden("noise_6w70")
    norms = GoldenScale().score_norms(noise["t"])
    parts = {}
    for name, score, norm in zip(("tr", "rot", "tor"), out, norms, strict=True):
        parts[name] = ((score.view(3, -1) - noise[f"{name}_score"]) / norm[:, None]).square().mean()
    return {**parts, "loss": 0.33 * sum(parts.values(), torch.zeros(()))}


@dataclass(frozen=True)
class Converted:
    """Our network as a function of the authors' own parameters: gradients flow through the conversion.

    model: its own weights mean nothing; target: its parameters and buffers made of ``state``, by the authors' names.
    """

    model: DockingDenoiser
    target: dict[str, Tensor]
    state: dict[str, Tensor]

    @staticmethod
    def of(name: str, monkeypatch: pytest.MonkeyPatch, changed: Mapping[str, Tensor] | None = None) -> "Converted":
        target: dict[str, Tensor] = {}
        monkeypatch.setattr(state_dicts, "_load", lambda model, made, *about: target.update(made))
        state = {**weights(name), **(changed or {})}
        buffers = ("running_mean", "running_var", "offset")
        for key, value in state.items():
            if value.is_floating_point() and not key.endswith(buffers):
                value.requires_grad_()
        return Converted(denoiser_from(state, GoldenScale()), target, state)

    def scores(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        class Flat(nn.Module):
            def __init__(self, model: DockingDenoiser) -> None:
                super().__init__()
                self.model = model

            def forward(self, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
                return self.model.flat_scores(*args)

        latents = node_latents(inputs, torch.float32) if self.model.latents.width else NodeLatents()
        named = {f"model.{name}": value for name, value in self.target.items()}
        arguments = (three(torch.float32), inputs["lig_pos"], inputs["t"], latents)
        result: tuple[Tensor, Tensor, Tensor] = functional_call(Flat(self.model), named, arguments)
        return result


@needs_golden
@pytest.mark.parametrize(("kind", "training"), [("disco", False), ("plain", False), ("disco", True)])
def test_loss_and_gradients_equal_the_authors(kind: str, training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training: outputs with batch statistics, running statistics afterwards; gradient of every one of their
    parameters."""
    g = golden(f"score_{kind}_6w70")
    expected = golden(f"score_{kind}_trainmode_6w70") if training else {**g["outputs"], "grad_norms": g["grad_norms"]}
    ours = Converted.of(SCORES[kind], monkeypatch)
    ours.model.train(training)
    for module in ours.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    out = ours.scores(g["inputs"])
    for name, score in zip(("tr", "rot", "tor"), out, strict=True):
        close(score.view(3, -1), expected[name].view(3, -1), 1e-5)
    parts = losses(out)
    for name, value in parts.items():
        label = name if name == "loss" else f"{name}_loss"
        if label in expected:
            torch.testing.assert_close(value, expected[label].view(()), rtol=1e-5, atol=0, check_dtype=False)
    parts["loss"].backward()
    largest = max(float(norm) for norm in expected["grad_norms"].values())
    for name, norm in expected["grad_norms"].items():
        gradient = ours.state[name].grad
        found = 0.0 if gradient is None else float(gradient.norm())
        assert found == pytest.approx(float(norm), rel=2e-4, abs=1e-6 * largest), name
    if training:
        after = Converted.of(SCORES[kind], monkeypatch, expected["buffers_after"]).target
        for name in (name for name in after if "running" in name):
            torch.testing.assert_close(ours.target[name], after[name], rtol=1e-4, atol=1e-6)
