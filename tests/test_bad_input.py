"""Everything a user can get wrong ends in one line that names the place and the remedy, and in an exit code."""

import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core import cli
from core.training.logs import read_jsonl
from tests.support import write_config
from tests.test_checkpoint import edit_manifest
from tests.test_files import full_disk

Trained = Callable[[str], Path]

# What is typed (a name in braces is a path of ``places``, {out} a new folder), and words that the answer must have.
TRAIN: dict[str, tuple[str, str]] = {
    "misspelt key": ("train {toy} latents.cout=3", "toy.yaml|latents.cout|did you mean 'count'"),
    "misspelt stage": ("train {toy} -o {out} train.denoisr.steps=3", "denoisr|denoiser"),
    "unknown domain": ("train {toy} domain=imges", "imges|did you mean 'images'"),
    "wrong type": ("train {toy} latents.count=many", "toy.yaml|latents.count|many"),
    "missing configuration": ("train {out}/gone.yaml", "gone.yaml|no such configuration file"),
    "empty configuration": ("train {empty}", "empty.yaml|mapping"),
    "override without =": ("train {toy} seed", "seed|key.sub=value"),
    "unknown stage": ("train {toy} -o {out} --stage decoder", "decoder|denoiser, prior"),
    "prior first": ("train {toy} -o {out} --stage prior", "prior|--stage denoiser first"),
    "unknown device": ("train {toy} -o {out} --device quantum", "quantum|auto, cpu or cuda"),
    "absent device": ("train {toy} -o {out} --device cuda:99", "cuda:99|--device"),
    "device of another kind": ("train {toy} -o {out} --device meta", "meta|cpu"),
    "loss not finite": ("train {toy} -o {out} train.denoiser.lr=1e30", "denoiser|loss is|train.denoiser.lr|clip"),
    "folder of another run": ("train {toy} -o {run} seed=9", "another configuration|seed|--overwrite"),
    "damaged run folder": ("train {toy} -o {torn}", "torn|config.yaml"),
    "out is a file": ("train {toy} -o {file}", "cannot write|plain-file"),
    "out is below a file": ("train {toy} -o {file}/run", "cannot write|plain-file"),
    "batch cannot be split": ("train {toy} -o {out} train.denoiser.accumulate=5", "train.denoiser.batch = 16|multiple"),
    "betas above 1": ("train {toy} -o {out} train.denoiser.betas=[1.5,0.9]", "betas"),
    "heads do not divide": ("train {toy} -o {out} prior.heads=3", "heads"),
    "class_drop without classes": ("train {toy} -o {out} model.class_drop=0.1", "class_drop"),
    "two latents for the toy": ("train {toy} -o {out} latents.count=2", "latents.count"),
    "unknown ViT": ("train {images} -o {out} model.vit.name=vit_gigantic", "vit_gigantic"),
    "ViT heads do not divide": ("train {images} -o {out} model.vit.num_heads=3", "heads"),
    "token heads do not divide": ("train {images} -o {out} model.latent_tokens.heads=3", "heads"),
    "resolution not the data's": ("train {images} -o {out} model.resolution=16", "model.resolution|8 x 8"),
    "a network without heads that fit": (
        "train {images} -o {out} model.denoiser.model_channels=64 model.denoiser.channels_per_head=20",
        "heads",
    ),
    "channels that make no groups": ("train {images} -o {out} model.denoiser.model_channels=50", "50 channels"),
    "no network of that name": ("train {images} -o {out} model.denoiser.network=unet", "adm|song|uvit"),
    "no resolutions": ("train {images} -o {out} model.denoiser.channel_mult=[]", "channel_mult|halved"),
    "too many resolutions": ("train {images} -o {out} model.denoiser.channel_mult=[1,1,1,1,1]", "channel_mult|halved"),
    "groups with no attention": ("train {images} -o {out} model.latent_tokens.groups=[8]", "groups|attn_resolutions"),
    "groups that cannot be split": ("train {images} -o {out} model.latent_tokens.groups=[4,8]", "groups|evenly"),
    "patches that do not fit": ("train {images} -o {out} model.vit.patch_size=3", "patch_size"),
    "no ViT": ("train {images} -o {out} model.vit.name=resnet18", "resnet18"),
    "weights without a density": (
        "train {images} -o {out} model.noise.distribution=cosine model.noise.weighting=edm-monotonic",
        "edm-monotonic",
    ),
    "sampler of the file unknown": ("train {toy} -o {out} sampling.sampler=huen", "huen|heun"),
    "classes fewer than the data's": ("train {images} -o {out} model.classes=5", "classes"),
}
USE: dict[str, tuple[str, str]] = {
    "no such model": ("sample {out}/gone", "gone|no such folder|disco train"),
    "no model in it": ("evaluate {folder}", "manifest.json|disco train"),
    "a file is no model": ("diagnose {file}", "plain-file|disco train"),
    "damaged weights": ("sample {damaged} -o {out}", "denoiser.safetensors|damaged|copy"),
    "other schema": ("sample {schema} -o {out}", "manifest.json|schema 99|train again"),
    "no prior": ("sample {priorless} -o {out}", "prior|--stage prior"),
    "unknown override": ("sample {model} -o {out} sampling.stpes=3", "sampling.stpes|did you mean 'steps'"),
    "override that changes the network": ("sample {model} -o {out} model.width=8", "denoiser.safetensors|does not fit"),
    "unknown sampler": ("sample {model} -o {out} --sampler hune", "hune|known: euler, heun"),
    "unknown sampler in the file": ("sample {model} -o {out} sampling.sampler=hune", "hune|known: euler, heun"),
    "unknown option": ("sample {model} -o {out} --sampler churn --option churn=3", "churn|s_churn"),
    "option of wrong type": ("sample {model} -o {out} --sampler churn --option s_churn=much", "s_churn|number"),
    "option without =": ("sample {model} -o {out} --sampler churn --option s_churn", "s_churn|NAME=VALUE"),
    "option that is no YAML": ("sample {model} -o {out} --sampler churn --option s_churn=[", "s_churn"),
    "option outside its range": ("sample {model} -o {out} --sampler heun --option alpha=0", "alpha"),
    "option that is not a number": ("sample {model} -o {out} --sampler churn --option s_churn=.nan", "s_churn"),
    "option of another sampler": ("sample {model} -o {out} --option s_churn=3", "heun|s_churn"),
    "solver that is none": ("sample {model} -o {out} --sampler churn --option solver=[1]", "solver"),
    "solver without steps": ("sample {model} -o {out} --sampler churn --option solver=mixed", "solver"),
    "guidance, plain model": ("sample {plain} -o {out} --guidance 1", "no latents|--guidance"),
    "guidance, plain model, evaluate": ("evaluate {plain} -o {out} -n 8 --guidance 1", "no latents|--guidance"),
    "class guidance without classes": ("sample {model} -o {out} --class-guidance 1", "classes"),
    "codes that are text": ("sample {model} -o {out} --codes three", "--codes three|3,1,7"),
    "codes out of range": ("sample {model} -o {out} --codes 8", "1 numbers from 0 to 7"),
    "too many codes": ("sample {model} -o {out} --codes 1,2", "1 numbers from 0 to 7"),
    "codes, plain model": ("sample {plain} -o {out} --codes 1", "no latents"),
    "unknown class": ("sample {digits} -o {out} --class 10", "class 10|0 to 9"),
    "class, toy": ("sample {model} -o {out} --class 1", "no classes|--class"),
    "unknown device": ("sample {model} -o {out} --device quantum", "quantum|auto, cpu or cuda"),
    "out is a file": ("sample {model} -o {file}", "cannot write|plain-file"),
    "too few samples for the toy": ("evaluate {model} -o {out} -n 4", "8 samples"),
    "prior temperature zero": ("sample {model} -o {out} sampling.prior_temperature=0", "sampling.prior_temperature"),
}
# Wrong usage, and the option, command or argument that the answer must name.
USAGE: dict[str, tuple[str, str]] = {
    "no steps": ("sample {model} --steps 0", "--steps"),
    "no samples": ("sample {model} -n 0", "--count"),
    "one sample to evaluate": ("evaluate {model} -n 1", "--count"),
    "negative first": ("sample {model} --first -1", "--first"),
    "unknown command": ("smaple {model}", "smaple"),
    "unknown option": ("sample {model} --sampelr heun", "--sampelr"),
    "missing argument": ("sample", "argument 'model'"),
    "seed that is no number": ("sample {model} --seed lucky", "--seed"),
}


def copy_of(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


@pytest.fixture(scope="module")
def places(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sound and damaged files and folders by name."""
    root, toy = tmp_path_factory.mktemp("places"), trained("toy")
    found = {
        "model": toy,
        "plain": trained("toy-plain"),
        "digits": trained("images"),
        "run": copy_of(toy, root / "run"),
    }
    found |= {name: write_config(root / f"{name}.yaml", name) for name in ("toy", "images")}
    found |= {name: copy_of(toy, root / name) for name in ("damaged", "schema", "priorless", "torn")}
    found |= {"folder": root, "file": root / "plain-file", "empty": root / "empty.yaml"}
    for name in ("file", "empty"):
        found[name].write_text("")
    (found["torn"] / "config.yaml").write_text("domain: [toy\n")
    weights = found["damaged"] / "model" / "denoiser.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    edit_manifest(found["schema"] / "model", lambda tree: tree.update(schema=99))
    edit_manifest(found["priorless"] / "model", lambda tree: tree["weights"].pop("prior"))
    return found


@pytest.fixture(autouse=True)
def _leave_no_traces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Work in an empty folder, with wide output; put logging back as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers, root.level = handlers, level


class Typed:
    """Types a line; gives exit code and what was printed."""

    def __init__(
        self, places: dict[str, Path], out: Path, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]
    ) -> None:
        self.names, self.patch, self.capture = {**places, "out": out}, patch, capture

    def __call__(self, line: str) -> tuple[int, str, str]:
        words = [word.format(**self.names) for word in line.split()]
        quiet = ["-q"] if words[0] in ("train", "sample", "evaluate", "diagnose") else []
        self.patch.setattr(sys, "argv", ["disco", *words, *quiet])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = self.capture.readouterr()
        assert isinstance(stop.value.code, int)
        return stop.value.code, printed.out, printed.err


@pytest.fixture
def typed(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Typed:
    return Typed(places, tmp_path / "out", monkeypatch, capsys)


@pytest.mark.parametrize(("line", "words"), [*TRAIN.values(), *USE.values()], ids=[*TRAIN, *USE])
def test_a_mistake_is_answered_in_one_line(typed: Typed, line: str, words: str) -> None:
    code, out, err = typed(line)
    assert code == 1
    assert re.fullmatch(r"\w+Error: .*\n", err), err
    assert [word for word in words.split("|") if word not in err] == [], err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(("line", "name"), USAGE.values(), ids=USAGE)
def test_wrong_usage_is_explained(typed: Typed, line: str, name: str) -> None:
    code, out, err = typed(line)
    assert code == 2
    assert out == ""
    assert "Usage: " in err
    assert name in err.lower()
    assert "Traceback" not in err


def test_a_mistake_in_the_file_is_found_before_anything_is_written(typed: Typed, tmp_path: Path) -> None:
    config = write_config(tmp_path / "run.yaml", "toy", ["latents.cout=3"])
    typed(f"train {config} -o {{out}}")
    assert os.listdir(tmp_path) == ["run.yaml"]


def test_the_same_line_without_the_mistake_works(typed: Typed) -> None:
    code, _, err = typed("sample {model} -o {out} -n 2 --steps 2 --sampler churn --option s_churn=3.0 --codes 7")
    assert code == 0
    assert "Error" not in err


@pytest.mark.parametrize(
    "line",
    ["train {toy} -o {disk}/run", "sample {model} -o {disk} -n 9000 --steps 1", "diagnose {model} -o {disk} -n 8"],
)
def test_a_full_disk_is_answered_in_one_line(typed: Typed, tmp_path: Path, line: str) -> None:
    typed.names["disk"] = tmp_path / "disk"
    with full_disk(tmp_path / "disk"):
        code, _, err = typed(line)
        left = [p for p in (tmp_path / "disk").rglob("*") if p.name.endswith(".tmp")]
    assert code == 1
    assert re.fullmatch(r"StorageError: cannot write .*\n", err), err
    assert str(tmp_path / "disk") in err
    assert left == []


def test_training_goes_on_when_the_disk_has_space_again(typed: Typed, tmp_path: Path) -> None:
    config = write_config(tmp_path / "long.yaml", "toy-plain", ["train.denoiser.steps=60", "train.denoiser.keep=9"])
    typed.names |= {"disk": tmp_path / "disk", "long": config}
    with full_disk(tmp_path / "disk"):
        assert typed("train {long} -o {disk}/run")[0] == 1
        shutil.copytree(tmp_path / "disk" / "run", tmp_path / "out")
    assert typed("train {long} -o {out}")[0] == 0
    rows = read_jsonl(tmp_path / "out" / "log-denoiser.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 61))
