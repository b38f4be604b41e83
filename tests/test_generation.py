"""Folders of samples: made in parts, gone on with after a stop, never mixed."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import RequestError
from core.generation import generate_into
from core.pipeline import Pipeline, Request
from core.training.distributed import World
from tests.support import ROOT

ALONE = World(0, 1, torch.device("cpu"))
Trained = Callable[[str], Path]


def load(trained: Trained, name: str) -> Pipeline:
    return Pipeline.from_pretrained(trained(name), "cpu", ["sampling.steps=2"])


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def times(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_mtime_ns for name in content(folder)}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("images", {}),
        ("images", {"share_latents": True}),
        ("images", {"codes": torch.tensor([1, -1, 2])}),
        ("images-plain", {"label": 3, "first": 9}),
        ("images-gaussian", {"share_latents": True}),
        ("toy", {}),
    ],
)
def test_parts_are_what_generate_gives_at_once(
    trained: Trained, tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    pipeline, request = load(trained, name), Request(count=7, seed=4, batch_size=7, **changes)
    generate_into(tmp_path / "parts", pipeline, dataclasses.replace(request, batch_size=3), ALONE, quiet=True)
    generate_into(tmp_path / "once", pipeline, request, ALONE, quiet=True)
    result = pipeline.generate(request)
    pipeline.domain.write(result, tmp_path / "plain")
    parts, once, plain = (content(tmp_path / folder) for folder in ("parts", "once", "plain"))
    assert parts.keys() == once.keys() == plain.keys() | {"samples.json", "config.yaml"}
    for path in [p for p in plain if p.startswith("images/")]:
        assert parts[path] == once[path] == plain[path]
    record = json.loads(parts["samples.json"])
    assert record == json.loads(once["samples.json"])
    assert record["ids"] == result.batch.ids.tolist()
    assert record["nfe"] == result.nfe == 3
    assert record["labels"] == (None if result.batch.label is None else result.batch.label.tolist())
    discrete = result.latents is not None and name != "images-gaussian"
    assert record["codes"] == (result.latents.codes.tolist() if discrete and result.latents is not None else None)


def test_a_killed_call_goes_on_in_batches_of_another_size(trained: Trained, tmp_path: Path) -> None:
    model, out = trained("images"), tmp_path / "samples"
    command = [
        sys.executable,
        "-m",
        "core.cli",
        "sample",
        str(model),
        "-n",
        "40",
        "--steps",
        "60",
        "-o",
        str(out),
        "-q",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "--batch-size", "2"], cwd=ROOT, env=environment)
    deadline = time.monotonic() + 120
    while len(list(out.glob("parts/*.json"))) < 3:  # what was asked for, and two parts
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "samples.json").exists(), "the kill came too late to test anything"
    finished = [n for p in out.glob("parts/[0-9]*.json") for n in json.loads(p.read_text())["ids"]]
    before = times(out)
    again = subprocess.run([*command, "--batch-size", "16"], cwd=ROOT, env=environment, check=False)
    assert again.returncode == 0
    after = times(out)
    kept = [f"images/{number:06d}.png" for number in finished]
    assert 4 <= len(kept) < 40
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    whole = tmp_path / "whole"
    pipeline = Pipeline.from_pretrained(model, "cpu")
    generate_into(whole, pipeline, Request(count=40, steps=60), ALONE, quiet=True)
    assert content(out) == content(whole)


def test_the_same_request_again_does_nothing(trained: Trained, tmp_path: Path) -> None:
    pipeline, request = load(trained, "images"), Request(count=3)
    assert generate_into(tmp_path, pipeline, request, ALONE, quiet=True).new
    before = times(tmp_path)
    assert not generate_into(tmp_path, pipeline, request, ALONE, quiet=True).new
    assert times(tmp_path) == before


@pytest.mark.parametrize(
    ("model", "setting", "changes", "word"),
    [
        ("images", "model.class_drop=0.1", {"seed": 1}, "seed"),
        ("images", "model.class_drop=0.1", {"count": 2}, "count"),
        ("images", "model.class_drop=0.1", {"codes": torch.tensor([1, 2, 3])}, "given_codes"),
        ("images", "model.noise.rho=5", {}, "configuration"),
        ("images-plain", "model.class_drop=0.1", {}, "weights, configuration"),
    ],
)
def test_samples_of_two_requests_are_never_mixed(
    trained: Trained, tmp_path: Path, model: str, setting: str, changes: dict[str, Any], word: str
) -> None:
    first = Request(count=4, batch_size=2)
    generate_into(tmp_path, load(trained, "images"), first, ALONE, quiet=True)
    before = times(tmp_path)
    other = Pipeline.from_pretrained(trained(model), "cpu", ["sampling.steps=2", setting])
    request = dataclasses.replace(first, **changes)
    with pytest.raises(RequestError, match=f"different: {word}.*--overwrite"):
        generate_into(tmp_path, other, request, ALONE, quiet=True)
    assert times(tmp_path) == before
    generate_into(tmp_path, other, request, ALONE, overwrite=True, quiet=True)
    assert len(list(tmp_path.glob("images/*.png"))) == request.count


def test_files_of_others_survive_an_overwrite(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    pipeline = load(trained, "toy")
    generate_into(tmp_path, pipeline, Request(count=4), ALONE, quiet=True)
    generate_into(tmp_path, pipeline, Request(count=2), ALONE, overwrite=True, quiet=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_wrong_request_leaves_no_folder(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="class 12 does not exist"):
        generate_into(tmp_path / "out", load(trained, "images"), Request(label=12), ALONE, quiet=True)
    assert not (tmp_path / "out").exists()


def test_a_sheet_shows_the_first_hundred_at_most(trained: Trained, tmp_path: Path) -> None:
    from PIL import Image

    generate_into(tmp_path, load(trained, "images"), Request(count=130, batch_size=120), ALONE, quiet=True)
    with Image.open(tmp_path / "grid.png") as sheet:
        assert sheet.size == ((10 * 9 + 1) * 6,) * 2  # ten by ten of 8 pixels with a gap, enlarged sixfold
