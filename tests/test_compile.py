"""Networks under ``torch.compile``: the same numbers, in training and in sampling. The backend captures the networks as
``inductor`` would have them and generates no code, so that no compiler is needed here. Processes of their own, because
the checks of shapes that tests run under cannot be captured."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from core.errors import ConfigError
from tests.support import disco, tiny_config, write_config


def succeed(*arguments: str | Path, **environment: str) -> str:
    """What the command said."""
    done = disco(*arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_compiled_networks_give_the_same_weights_and_the_same_images(tmp_path: Path) -> None:
    config = write_config(tmp_path / "run.yaml", "images", ["train.denoiser.steps=3", "train.prior.steps=3"])
    plain, compiled = tmp_path / "plain", tmp_path / "compiled"
    succeed("train", config, "-o", plain)
    traced = {"TORCH_LOGS": "graph_code"}
    setting = "train.denoiser.compile=aot_eager"
    assert "TRACED GRAPH" in succeed("train", config, "-o", compiled, "--stage", "denoiser", setting, **traced)
    expected, found = (load_file(folder / "model" / "denoiser.safetensors") for folder in (plain, compiled))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)
    succeed("train", config, "-o", compiled, "--stage", "denoiser", "train.denoiser.steps=4")  # goes on without it

    options = ("-n", "2", "--steps", "2", "--seed", "0")
    succeed("sample", plain, *options, "-o", tmp_path / "images")
    setting = "sampling.compile=aot_eager"
    assert "TRACED GRAPH" in succeed("sample", plain, *options, "-o", tmp_path / "same", setting, **traced)
    first, second = (np.asarray(Image.open(tmp_path / name / "grid.png"), float) for name in ("images", "same"))
    np.testing.assert_allclose(first, second, atol=1)


def test_unknown_backends_are_named() -> None:
    with pytest.raises(ConfigError, match="compile"):
        tiny_config("images", ["train.denoiser.compile=fastest"])
