"""Products in a lower precision: where, how near to float32, and what stays as precise as it was."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core.errors import ConfigError
from core.pipeline import Pipeline
from core.precision import low_dtype
from core.training.logs import read_jsonl
from core.training.run import train
from domains.docking.domain import DockingDomain
from tests.support import VARIANTS, tiny_config

Trained = Callable[[str], Path]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(params=[True, False])
def made_for_bf16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A CPU with or without the instructions; it computes either way."""
    monkeypatch.setattr("core.precision._cpu_has_bf16", lambda: request.param)
    return bool(request.param)


def test_types_by_device(made_for_bf16: bool) -> None:
    assert [low_dtype(CUDA, p) for p in ("fp32", "bf16", "fp16")] == [None, torch.bfloat16, torch.float16]
    assert low_dtype(CPU, "bf16") == (torch.bfloat16 if made_for_bf16 else None)
    assert low_dtype(CPU, "fp16") is None
    assert low_dtype(CPU, "fp32") is None


@pytest.mark.parametrize("name", [name for name in VARIANTS if not name.startswith("docking")])
def test_training_in_bf16_is_near_or_says_that_it_is_not_done(
    name: str, tmp_path: Path, made_for_bf16: bool, caplog: pytest.LogCaptureFixture
) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        overrides = [f"train.denoiser.precision={precision}", "train.denoiser.steps=3", "train.denoiser.batch=8"]
        with caplog.at_level(logging.WARNING, "disco"):
            model = train(tiny_config(name, overrides), tmp_path / precision, stage="denoiser", quiet=True)
        rows = read_jsonl(tmp_path / precision / "log-denoiser.jsonl")
        losses[precision] = torch.tensor([row["loss"] for row in rows])
        assert all(value.dtype != torch.bfloat16 for value in load_file(model / "denoiser.safetensors").values())
    assert losses["bf16"].equal(losses["fp32"]) == (not made_for_bf16)
    assert ("not made for it; float32 is used" in caplog.text) == (not made_for_bf16)
    torch.testing.assert_close(losses["bf16"], losses["fp32"], rtol=0.05, atol=0)


@pytest.mark.parametrize("name", ["toy", "images", "images-gaussian"])
def test_samples_in_bf16_are_near(trained: Trained, name: str, made_for_bf16: bool) -> None:
    exact, low = (
        Pipeline.from_pretrained(trained(name), "cpu", [f"sampling.precision={precision}"]).generate(count=2, steps=3)
        for precision in ("fp32", "bf16")
    )
    assert {n: x.dtype for n, x in low.state.items()} == {n: x.dtype for n, x in exact.state.items()}
    for field, value in exact.state.items():
        assert low.state[field].equal(value) == (not made_for_bf16)
        torch.testing.assert_close(low.state[field], value, rtol=0, atol=0.05 * float(value.abs().max()))


@pytest.mark.parametrize("setting", ["sampling.precision=bf16", "train.prior.precision=fp16"])
def test_docking_refuses_what_its_coordinates_do_not_bear(setting: str) -> None:
    with pytest.raises(ConfigError, match=f"set {setting.partition('=')[0]} to fp32"):
        DockingDomain(tiny_config("docking", [setting]))
