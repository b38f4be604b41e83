"""Folders of samples: made in parts, gone on with after a stop, never mixed."""

import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import DataError, RequestError
from core.files import locked
from core.generation import _Job, generate_into, shares
from core.guidance import Guidance
from core.pipeline import Pipeline, Request
from core.prior import PriorOptions
from core.samplers import Mixed
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
    pipeline.domain.overview(tmp_path / "plain", result.batch.ids.tolist())
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
    assert content(out) == content(whole)  # left-overs of the killed process would be too many


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_call_says_how_to_go_on(trained: Trained, tmp_path: Path, number: int) -> None:
    out = tmp_path / "some samples"
    command = [sys.executable, "-m", "core.cli", "sample", str(trained("images")), "--overwrite", "-n", "40"]
    command += ["--steps", "60", "--batch-size", "2", "-o", str(out), "-q"]
    # A shell's background jobs, such as these tests may be, are born deaf to SIGINT.
    hearing = f"import signal; signal.signal({int(signal.SIGINT)}, signal.default_int_handler); "
    start = [sys.executable, "-c", hearing + "from core.cli import main; main()", *command[3:]]
    process = subprocess.Popen(
        start, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(out.glob("parts/[0-9]*.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in said
    again = shlex.split(said.strip().splitlines()[-1])
    assert again == ["disco", *(word for word in command[3:] if word != "--overwrite")]


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
        (
            "images",
            "model.class_drop=0.1",
            {"guidance": Guidance(0.5, interval=(1.0, 9.0))},
            "guidance, guidance_interval",
        ),
        ("images", "model.class_drop=0.1", {"prior": PriorOptions(temperature=0.5)}, "prior"),
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
    with pytest.raises(RequestError, match=rf"different: {word}\).*--overwrite"):
        generate_into(tmp_path, other, request, ALONE, quiet=True)
    assert times(tmp_path) == before
    generate_into(tmp_path, other, request, ALONE, overwrite=True, quiet=True)
    assert len(list(tmp_path.glob("images/*.png"))) == request.count


def test_two_low_models_are_two_requests(trained: Trained, tmp_path: Path) -> None:
    def low(*settings: str) -> Pipeline:
        return Pipeline.from_pretrained(trained("images-plain"), "cpu", settings)

    mixed = Request(count=2, sampler=Mixed(1.0), low_model=low())
    generate_into(tmp_path, load(trained, "images"), mixed, ALONE, quiet=True)
    other = dataclasses.replace(mixed, low_model=low("model.noise.sigma_data=0.3"))
    with pytest.raises(RequestError, match="different: low_configuration"):
        generate_into(tmp_path, load(trained, "images"), other, ALONE, quiet=True)


@pytest.mark.parametrize("name", ["images", "toy"])
def test_files_of_others_survive_an_overwrite(trained: Trained, tmp_path: Path, name: str) -> None:
    for place in ("notes.txt", "images/mine.png"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text("mine")
    pipeline = load(trained, name)
    generate_into(tmp_path, pipeline, Request(count=4), ALONE, quiet=True)
    generate_into(tmp_path, pipeline, Request(count=2), ALONE, overwrite=True, quiet=True)
    assert all((tmp_path / place).read_text() == "mine" for place in ("notes.txt", "images/mine.png"))
    assert len(list(tmp_path.glob("images/0*.png"))) == (2 if name == "images" else 0)


def test_what_a_record_names_elsewhere_is_not_touched(trained: Trained, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    out, pipeline = tmp_path / "out", load(trained, "images")
    generate_into(out, pipeline, Request(count=2), ALONE, quiet=True)
    record = json.loads((out / "samples.json").read_text())
    (out / "samples.json").write_text(json.dumps({**record, "files": [str(victim), "../victim"]}))
    generate_into(out, pipeline, Request(count=1), ALONE, overwrite=True, quiet=True)
    assert victim.is_dir()


def test_an_overwrite_takes_all_images_of_an_older_version_away(trained: Trained, tmp_path: Path) -> None:
    pipeline = load(trained, "images")
    generate_into(tmp_path, pipeline, Request(count=6), ALONE, quiet=True)
    (tmp_path / "samples.json").write_text(json.dumps({"seed": 0, "ids": list(range(6))}))
    with pytest.raises(RequestError, match=r"\(by an earlier version\)"):
        generate_into(tmp_path, pipeline, Request(count=3), ALONE, quiet=True)
    generate_into(tmp_path, pipeline, Request(count=3), ALONE, overwrite=True, quiet=True)
    assert sorted(path.name for path in tmp_path.glob("images/*")) == [f"00000{n}.png" for n in range(3)]


def stopped(tmp_path: Path, pipeline: Pipeline, request: Request, parts: list[list[int]]) -> Path:
    """A folder in which only these places of the batch are done."""
    job = _Job(tmp_path / "out", pipeline, request, pipeline.samples_of(request))
    job.claim(overwrite=False)
    job.make(parts, job.checked(), quiet=True)
    return job.out


def test_gaps_are_filled_and_the_record_is_in_order(trained: Trained, tmp_path: Path) -> None:
    pipeline, request = load(trained, "images"), Request(count=9, first=4, batch_size=3)
    out = stopped(tmp_path, pipeline, request, [[0, 1], [5, 6], [8]])
    (out / "images" / "000010.png").unlink()  # place 6: its part is made anew
    kept = [f"images/{n:06d}.png" for n in (4, 5, 12)]
    before = times(out)
    generate_into(out, pipeline, request, ALONE, quiet=True)
    after, whole = times(out), tmp_path / "whole"
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert after["images/000009.png"] > before["images/000009.png"]
    generate_into(whole, pipeline, request, ALONE, quiet=True)
    assert content(out) == content(whole)
    assert json.loads((out / "samples.json").read_text())["ids"] == list(range(4, 13))


def test_parts_without_a_claim_are_nobody_s(trained: Trained, tmp_path: Path) -> None:
    pipeline = load(trained, "images")
    out = stopped(tmp_path, pipeline, Request(count=6), [[0, 1], [4, 5]])
    (out / "parts" / "asked.json").unlink()
    generate_into(out, pipeline, Request(count=5, seed=7), ALONE, quiet=True)
    generate_into(tmp_path / "whole", pipeline, Request(count=5, seed=7), ALONE, quiet=True)
    assert content(out) == content(tmp_path / "whole")


def test_a_refused_folder_without_samples_is_free(trained: Trained, tmp_path: Path) -> None:
    pipeline = load(trained, "images")
    out = stopped(tmp_path, pipeline, Request(count=6), [])
    assert generate_into(out, pipeline, Request(count=2, seed=1), ALONE, quiet=True).new


def test_a_call_holds_its_folder(trained: Trained, tmp_path: Path) -> None:
    pipeline = load(trained, "images")
    out = stopped(tmp_path, pipeline, Request(count=4), [[0, 1]])
    before = times(out)
    with locked(out / "parts"), pytest.raises(RequestError, match="another run is writing there"):
        generate_into(out, pipeline, Request(count=4), ALONE, quiet=True)
    assert {name: time for name, time in times(out).items() if "lock" not in name} == before
    assert generate_into(out, pipeline, Request(count=4), ALONE, quiet=True).new


def test_images_that_are_gone_are_missed(trained: Trained, tmp_path: Path) -> None:
    pipeline, request = load(trained, "images"), Request(count=3)
    generate_into(tmp_path, pipeline, request, ALONE, quiet=True)
    (tmp_path / "images" / "000001.png").unlink()
    with pytest.raises(DataError, match=r"1 files of samples .* first of number 1: make all anew with --overwrite"):
        generate_into(tmp_path, pipeline, request, ALONE, quiet=True)
    assert generate_into(tmp_path, pipeline, request, ALONE, overwrite=True, quiet=True).new


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_damaged_records_are_named(trained: Trained, tmp_path: Path, text: str) -> None:
    pipeline, request = load(trained, "images"), Request(count=3)
    generate_into(tmp_path, pipeline, request, ALONE, quiet=True)
    (tmp_path / "samples.json").write_text(text)
    for overwrite in (False, True):
        with pytest.raises(DataError, match=r"samples\.json: damaged.*remove the folder"):
            generate_into(tmp_path, pipeline, request, ALONE, overwrite, quiet=True)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("images", {"label": 12}, "class 12 does not exist"),
        ("images-plain", {"guidance": Guidance(1.0)}, "no latents"),
        ("images", {"low_model": True}, "only the sampler 'mixed'"),
    ],
)
def test_a_wrong_request_leaves_no_folder(
    trained: Trained, tmp_path: Path, name: str, changes: dict[str, Any], words: str
) -> None:
    pipeline = load(trained, name)
    if "low_model" in changes:
        changes = {"low_model": pipeline}
    with pytest.raises(RequestError, match=words):
        generate_into(tmp_path / "out", pipeline, Request(**changes), ALONE, quiet=True)
    assert not (tmp_path / "out").exists()


def test_the_folder_of_a_run_is_no_place_for_samples(trained: Trained) -> None:
    before = times(trained("images"))
    with pytest.raises(RequestError, match="is the folder of a run"):
        generate_into(trained("images"), load(trained, "images"), Request(), ALONE, quiet=True)
    assert times(trained("images")) == before


def test_processes_share_what_is_left_in_turns() -> None:
    assert shares([0, 1, 2, 5, 6, 8, 9], 2, 3) == [[[0, 1], [9]], [[2, 5]], [[6, 8]]]
    assert shares([], 4, 2) == [[], []]


def test_a_sheet_shows_the_first_hundred_at_most(trained: Trained, tmp_path: Path) -> None:
    from PIL import Image

    generate_into(tmp_path, load(trained, "images"), Request(count=130, batch_size=120), ALONE, quiet=True)
    with Image.open(tmp_path / "grid.png") as sheet:
        assert sheet.size == ((10 * 9 + 1) * 6,) * 2  # ten by ten of 8 pixels with a gap, enlarged sixfold
