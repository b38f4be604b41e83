"""The image benchmark: a peer of the same network is measured in turns, another network is refused, latents add
nothing but what they are."""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import core.pipeline
from benchmarks.images import budget, costs, latents
from benchmarks.images.__main__ import main, parse, table, throughput
from benchmarks.images.budget import budgets, cost
from benchmarks.images.sides import NETS, VARIANTS, Peer, check_same, image_domain, lay_out, our_denoiser
from benchmarks.measurement import Measurement
from core.config_file import load_config
from core.errors import ConfigError, DataError, RequestError
from core.pipeline import Pipeline
from core.precision import autocast
from core.registry import get_domain
from core.types import Batch, Latents

SIZES = ("--width", "32", "--resolution", "8", "--batch", "2", "--rounds", "1", "--repeats", "1", "--steps", "2")
DIGITS = latents.CONFIG.with_name("digits-disco.yaml")

# A stand-in for a checkout: the same names and calls, around our own network. SCALE other than 1 is another network.
NETWORKS = """
import torch
from torch import nn
from core.precondition import EDMPrecondition, PreconditionedDenoiser
from core.types import Batch
from domains.images.networks.adm import ADMSettings, DhariwalUNet
from domains.images.networks.song import SongSettings, SongUNet

SCALE = {scale}
KINDS = {{"SongUNet": (SongSettings, SongUNet), "DhariwalUNet": (ADMSettings, DhariwalUNet)}}

class EDMPrecond(nn.Module):
    def __init__(self, img_resolution, img_channels, label_dim, use_fp16, model_type, **sizes):
        super().__init__()
        self.fp16 = use_fp16
        settings, network = KINDS[model_type]
        self.model = network(settings(img_resolution, img_channels, img_channels, label_dim, **sizes))

    def forward(self, x, sigma, class_labels):
        batch = Batch(torch.arange(len(x)), label=class_labels.argmax(1))
        sigma = sigma.to(torch.float32).reshape(-1).expand(len(x))
        return SCALE * PreconditionedDenoiser(self.model, EDMPrecondition()).denoise(x.float(), sigma, None, batch)
"""
LOSS = """
import torch

class EDMLoss:
    def __call__(self, net, images, labels):
        return (net(images, torch.ones(len(images)), labels) - images) ** 2
"""
GENERATE = """
def edm_sampler(net, latents, class_labels, num_steps):
    for _ in range(2 * num_steps - 1):
        latents = net(latents, latents.new_ones(1), class_labels)
    return latents
"""


@pytest.fixture
def peer(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a peer, whose modules are forgotten afterwards."""
    folder = tmp_path / "peer"
    (folder / "training").mkdir(parents=True)
    (folder / "training" / "networks.py").write_text(NETWORKS.format(scale=getattr(request, "param", 1)))
    (folder / "training" / "loss.py").write_text(LOSS)
    (folder / "generate.py").write_text(GENERATE)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield folder
    for name in ("training.networks", "training.loss", "training", "generate"):
        sys.modules.pop(name, None)


def options(*more: str) -> argparse.Namespace:
    return parse([*SIZES, *more])


@pytest.mark.parametrize("net", NETS)
def test_the_peer_is_built_from_the_settings_of_our_network(net: str, peer: Path) -> None:
    assert check_same(options("--net", net, "--peer", str(peer))) == 0


@pytest.mark.parametrize("peer", [1.01], indirect=True)
def test_another_network_is_refused(peer: Path) -> None:
    with pytest.raises(DataError, match="outputs differ by"):
        check_same(options("--peer", str(peer)))


def test_weights_that_do_not_fit_are_refused(peer: Path) -> None:
    file = peer / "training" / "networks.py"
    text = file.read_text()
    file.write_text(text.replace("        self.model =", "        self.more = nn.Linear(1, 1)\n        self.model ="))
    with pytest.raises(DataError, match=r"'more\.weight' exists on one side only"):
        check_same(options("--peer", str(peer)))


def test_a_folder_without_a_checkout_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(DataError, match="not a working checkout of EDM"):
        Peer(tmp_path)


@pytest.mark.parametrize("variant", ["ours", "channels-last"])
def test_the_layout_of_weights_changes_no_output(variant: str) -> None:
    domain = image_domain(options("--net", "adm"))
    denoiser = our_denoiser(domain).eval()
    x, sigma, batch = torch.randn(2, 3, 8, 8), torch.ones(2), Batch(torch.arange(2), label=torch.arange(2))
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    with torch.no_grad():
        before = denoiser.denoise(x, sigma, None, batch)
        lay_out(denoiser, VARIANTS[variant])
        after = denoiser.denoise(x, sigma, None, batch)
    convolution = next(m for m in denoiser.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size[0] > 1)
    laid_out = convolution.weight.is_contiguous(memory_format=torch.channels_last)
    assert laid_out == (variant == "channels-last")
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)


def test_all_sides_are_measured_in_processes_of_their_own(
    peer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*SIZES, "--cases", "train", "--net", "adm", "--peer", str(peer), "-o", str(out)]) == 0
    rounds = json.loads((out / "images-adm.json").read_text())["results"]["train"]
    for side in ("ours", "peer"):
        (measured,) = rounds[side]
        assert measured["peak_mb"] > 50
        assert 0 < sum(measured["parts"].values()) <= measured["cpu"]
        assert set(measured["parts"]) == {"forward", "backward", "optimiser"}
    assert "| train | CPU s per step | peer |" in capsys.readouterr().out


def test_a_peer_that_fails_is_told_and_nothing_is_claimed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SIZES, "--peer", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "not a working checkout of EDM" in said.err
    assert "|" not in said.out


def test_ratios_are_those_of_the_rounds() -> None:
    ours = [Measurement(1.0, 2.0, 100.0), Measurement(2.0, 2.0, 100.0), Measurement(4.0, 2.0, 100.0)]
    theirs = [Measurement(2.0, 2.0, 150.0), Measurement(6.0, 2.0, 150.0), Measurement(4.0, 2.0, 150.0)]
    lines = table({"call": {"ours": ours, "peer": theirs}}).splitlines()
    assert "| call | CPU s per call | peer | 4 | 2.000 (1.000 to 3.000) |" in lines
    assert "| call | peak MB | peer | 150 | 1.500 (1.500 to 1.500) |" in lines


def test_throughput_is_that_of_the_network_s_arithmetic() -> None:
    asked = options("--peak-tflops", "1e-3")
    forward, _ = budgets(image_domain(asked).config)["denoiser"]
    lines = throughput({"train": {"ours": [Measurement(1.0, 0.5, 100.0)], "peer": []}}, asked).splitlines()
    assert lines[2:] == [f"| train | ours | 4 | {12 * forward / 1e12:.3g} ({12 * forward / 1e9:.0%} of the peak) |"]


@pytest.mark.parametrize("case", ["train", "call", "heun"])
def test_every_case_runs_in_bf16_beside_the_peer_s_fp16(
    case: str, peer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--cases", case, "--net", "adm", "--peer", str(peer), "--fp16", "--variants", "ours,bf16")
    assert main([*SIZES, *asked]) == 0
    said = capsys.readouterr().out
    assert all(f"| {case} | {side} |" in said for side in ("ours", "bf16", "peer", "peer-fp16"))


def test_sides_compute_in_their_own_precision(peer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []

    def recorded(device: torch.device, dtype: torch.dtype | None) -> Any:
        used.append(dtype)
        return autocast(device, dtype)

    for module in (costs, core.pipeline):
        monkeypatch.setattr(module, "autocast", recorded)
    monkeypatch.setattr("core.precision._cpu_has_bf16", lambda: True)
    for side, expected in (("ours", None), ("bf16", torch.bfloat16)):
        for measure in (costs.measure_train, costs.measure_call, costs.measure_heun):
            used.clear()
            sizes = {"net": "adm", "width": 32, "resolution": 8, "batch": 2, "repeats": 1, "steps": 2, "seed": 0}
            measure(argparse.Namespace(**sizes, side=side, peer=None, device=torch.device("cpu")))
            assert set(used) == {expected}
    domain = image_domain(options("--net", "adm"))
    assert [Peer(peer).network(domain, fp16=half).fp16 for half in (False, True)] == [False, True]


def test_a_device_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SIZES, "--device", "cuda:99"]) == 1
    assert "this PyTorch sees" in capsys.readouterr().err


def test_a_budget_counts_products_and_what_the_backward_pass_keeps() -> None:
    with torch.device("meta"):
        chain = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.Sigmoid(), torch.nn.Linear(128, 32))
        x = torch.empty(3, 64, requires_grad=True)
    flops, kept = cost(lambda: chain(x), {p.untyped_storage()._cdata for p in chain.parameters()})
    assert flops == 2 * 3 * (64 * 128 + 128 * 32)
    assert kept == 4 * 3 * (64 + 128)  # the input, and the sigmoid's output, which is the next input too


def test_budgets_are_of_all_networks_that_train_together(capsys: pytest.CaptureFixture[str]) -> None:
    with_latents, plain = budgets(load_config(DIGITS)), budgets(load_config(DIGITS.with_name("digits-plain.yaml")))
    assert with_latents.keys() == {"encoder", "denoiser"}
    assert plain.keys() == {"denoiser"}
    assert all(more > less > 0 for more, less in zip(with_latents["denoiser"], plain["denoiser"], strict=True))
    assert budget.main([str(DIGITS), str(DIGITS.with_name("no-such.yaml"))]) == 1
    said = capsys.readouterr()
    assert "| digits-disco | denoiser |" in said.out
    assert "no-such.yaml" in said.err


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be normalised"):
        our_denoiser(image_domain(options("--width", "36")))
    for wrong in (("--cases", "dance"), ("--variants", "fast"), ("--rounds", "0"), ("--latents", "--peer", ".")):
        with pytest.raises(SystemExit):
            options(*wrong)


def test_without_latents_is_the_same_network() -> None:
    config = load_config(DIGITS, ["model.latent_tokens.zero_init=true"])
    domain = get_domain("images")(config)
    full = Pipeline(domain, {"denoiser": domain.denoiser()}).denoiser
    plain = latents.without_latents(config, full)
    x, level, batch = torch.randn(2, 1, 8, 8), torch.ones(2), Batch(torch.arange(2), label=torch.arange(2))
    one_hot = torch.eye(config.latents.codes)[torch.zeros(2, config.latents.count, dtype=torch.long)]
    with torch.no_grad():
        ours = full({"x": x}, level, Latents(one_hot, torch.ones(2, dtype=torch.bool)), batch)["x"]
        torch.testing.assert_close(plain({"x": x}, level, None, batch)["x"], ours)
    shared = {p.data_ptr() for p in full.parameters()}
    assert all(p.data_ptr() in shared for p in plain.parameters())


def test_what_latents_cost_is_measured_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["--latents", "--config", str(DIGITS), "--batch", "2", "--rounds", "2", "-o", str(tmp_path)]
    assert main(run) == 0
    costs = json.loads((tmp_path / "image-latents.json").read_text())["results"]
    assert costs["calls"] == 2 * load_config(DIGITS).sampling.steps - 1
    assert all(len(each) == 2 and min(each) > 0 for each in costs["seconds"].values())
    said = capsys.readouterr().out
    assert "with / without latents" in said
    assert "one call of 2B / two calls of B" in said


def test_the_report_is_made_of_the_ratios_of_each_round() -> None:
    seconds = {
        "without latents": [1.0, 2.0], "with latents": [1.1, 2.4], latents.ONE_CALL: [2.0, 4.0],
        latents.TWO_CALLS: [2.5, 4.0], "prior": [2.0, 4.0],
    }  # fmt: skip
    text = latents.report(latents.Costs("a model", 49, seconds))
    assert "with / without latents: 1.150 (1.100 to 1.200)" in text
    assert "two calls of B: 0.900 (0.800 to 1.000)" in text
    assert "49 guided calls: 2.00 (2.00 to 2.00) %" in text


def test_a_network_too_large_for_the_memory_is_narrowed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = parse(["--latents"])
    monkeypatch.setattr(latents, "free_memory", lambda: 64e9)
    assert latents.latent_config(asked).model.denoiser.model_channels == 192
    monkeypatch.setattr(latents, "free_memory", lambda: 3e9)
    assert latents.latent_config(asked).model.denoiser.model_channels == 128


def test_a_model_without_latents_has_no_cost_of_them() -> None:
    plain = DIGITS.with_name("digits-plain.yaml")
    with pytest.raises(RequestError, match="no discrete latents"):
        latents.latent_config(parse(["--latents", "--config", str(plain)]))


def test_the_loader_is_measured_on_what_it_makes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.images import loader

    monkeypatch.setattr(loader, "IMAGES", 12)
    run = ["--resolution", "8", "--workers", "0,1", "--batch", "4", "--count", "10"]
    assert loader.main(run) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    kinds = [[row[0].split(",")[0], *row[1:3]] for row in rows]
    assert kinds == [[kind, p, w] for kind in ("zip of PNGs", "npz") for p in ("0", "0.12") for w in ("0", "1")]
    assert all(float(rate.replace(",", "")) > 0 for row in rows for rate in row[3:5])
    assert [row[5] == "none: it waits" for row in rows] == [True, False] * 4
    assert loader.main(["--source", "no-such-folder"]) == 1
    assert "no-such-folder: does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_is_charged_for_the_work_of_its_processes(tmp_path: Path, workers: int) -> None:
    from benchmarks.images import loader
    from core.data import TensorDataset

    class Slow(TensorDataset):
        def load(self, indices: Sequence[int] | np.ndarray, ids: Sequence[int] | np.ndarray) -> Batch:
            start = time.process_time()
            while time.process_time() < start + 0.1:
                pass
            return super().load(indices, ids)

    data = Slow({"x": torch.zeros(5, 1, 2, 2)})
    delivered, cost = loader.measure(data, workers, batch=4, count=10, folder=tmp_path)
    assert delivered == 12  # whole batches
    assert cost.cpu > 0.29


def test_impossible_options_of_the_loader_are_refused() -> None:
    from benchmarks.images import loader

    for wrong in (("--workers", "one"), ("--workers", "-1"), ("--batch", "0"), ("--augment", "2"), ("--gpu-rate", "0")):
        with pytest.raises(SystemExit):
            loader.parse(wrong)


def test_made_up_images_take_as_many_bytes_as_photographs() -> None:
    from benchmarks.images import loader
    from tests.test_images_data import encoded

    sizes = [len(encoded(image)) for image in loader.pictures(20, 64)]
    assert 6000 < sum(sizes) / 20 < 8000
