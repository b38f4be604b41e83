"""One configuration tree: what wins over what, and how mistakes are named."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError

from core.config import RunConfig, StageConfig
from core.config_file import apply_overrides, dump_config, load_config, parse_config
from core.errors import ConfigError
from core.registry import get_domain
from tests.support import DOCKING_DATA, ROOT, VARIANTS, tiny_config, tiny_tree, write_config

EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.yaml"))


def written(folder: Path, **files: str) -> Path:
    """Write YAML files by stem; returns the path of the first."""
    for stem, text in files.items():
        (folder / f"{stem}.yaml").write_text(text)
    return folder / f"{next(iter(files))}.yaml"


def error_of(path: Path | str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_there_are_experiments_of_both_domains() -> None:
    assert {load_config(path).domain for path in EXPERIMENTS} >= {"toy", "images"}


# Docking experiments name data and a language model that users bring.
ON_TEST_DATA = [
    f"model.data.folder={DOCKING_DATA / 'complexes'}", f"model.data.table={DOCKING_DATA / 'complexes.csv'}",
    "model.language_dim=0",
]  # fmt: skip


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_experiment_loads_and_its_networks_can_be_built(path: Path, tmp_path: Path) -> None:
    overrides = ON_TEST_DATA if path.parent.name == "docking" else []
    if path.parent.name == "images":
        overrides = [f"model.data.source={noise_images(load_config(path).model, tmp_path / 'images.npz')}"]
    config = load_config(path, overrides)
    domain = get_domain(config.domain)(config)
    assert len(domain.dataset("train")) > 0
    # Of images without storage: one network has two thousand million parameters.
    with torch.device("meta" if path.parent.name == "images" else "cpu"):
        for build in domain.parts().values():
            assert sum(p.numel() for p in build().parameters()) > 0


def noise_images(model: Any, path: Path) -> Path:
    """A few images of the size that a model is made for, with labels."""
    shape = (20, model.resolution, model.resolution, model.image_channels)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.savez(path, images=pixels, labels=np.arange(20) % 10)
    return path


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_experiment_survives_dump_and_load(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    again = load_config(written(tmp_path, copy=dump_config(config)))
    assert again.model_dump() == config.model_dump()
    assert dump_config(again) == dump_config(config)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_survives_dump_and_load(name: str) -> None:
    config = tiny_config(name, ["sampling.sampler=churn", "sampling.options={s_churn: 4.0}", "train.denoiser.lr=1e-5"])
    again = parse_config(yaml.safe_load(dump_config(config)), "test")
    assert again.model_dump() == config.model_dump()


def test_the_dump_shows_every_key_with_its_value() -> None:
    tree = yaml.safe_load(dump_config(tiny_config("toy")))
    assert tree["sampling"]["top_p"] == 1.0
    assert tree["train"]["denoiser"]["ema"] == {"kind": "warmup", "decay": 0.999, "std": 0.1}
    assert tree["model"]["noise"]["grid"] == "rho"


def test_command_line_beats_file_beats_default(tmp_path: Path) -> None:
    path = written(tmp_path, run="domain: toy\nlatents: {count: 3, codes: 5}\n")
    config = load_config(path, ["latents.count=7"])
    assert (config.latents.count, config.latents.codes, config.latents.drop) == (7, 5, 0.1)


def test_the_last_of_two_overrides_wins(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, run="domain: toy\n"), ["seed=1", "seed=2"]).seed == 2


def test_overrides_do_not_change_the_tree_they_are_applied_to() -> None:
    raw = {"latents": {"count": 1}}
    assert apply_overrides(raw, ["latents.count=2", "latents.codes=4"]) == {"latents": {"count": 2, "codes": 4}}
    assert raw == {"latents": {"count": 1}}


def test_override_values_are_yaml() -> None:
    values = apply_overrides({}, ["a=1", "b=true", "c=[1, 2]", "d={x: 1}", "e=text=more", "f=null"])
    assert values == {"a": 1, "b": True, "c": [1, 2], "d": {"x": 1}, "e": "text=more", "f": None}


@pytest.mark.parametrize("text", ["1e-3", "0.001", "1.0e-3"])
def test_numbers_may_be_written_with_an_exponent(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, run=f"domain: toy\ntrain: {{denoiser: {{lr: {text}}}}}\n")
    assert load_config(path).stage("denoiser").lr == 1e-3
    assert load_config(path, [f"train.denoiser.lr={text}"]).stage("denoiser").lr == 1e-3


@pytest.mark.parametrize("override", ["latents.count", "=5", "latents.count=[1", "latents.codes={"])
def test_an_override_with_wrong_syntax_is_quoted(tmp_path: Path, override: str) -> None:
    message = error_of(write_config(tmp_path / "run.yaml", "toy"), override)
    assert f"override '{override}'" in message


def test_extends_is_a_chain_relative_to_each_file(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    written(tmp_path, base="domain: toy\nseed: 1\nlatents: {count: 1, codes: 8}\n")
    written(tmp_path / "deep", middle="extends: ../base.yaml\nseed: 2\nlatents: {codes: 9}\n")
    path = written(tmp_path / "deep", top="extends: middle.yaml\nlatents: {drop: 0.5}\n")
    config = load_config(path)
    assert config.seed == 2
    assert (config.latents.count, config.latents.codes, config.latents.drop) == (1, 9, 0.5)


@pytest.mark.parametrize("second", ["a.yaml", "b.yaml"])
def test_a_circle_of_extends_is_an_error(tmp_path: Path, second: str) -> None:
    message = error_of(written(tmp_path, a="extends: b.yaml\n", b=f"extends: {second}\n"))
    assert "circle" in message
    assert ".yaml" in message


def test_two_files_may_extend_the_same_base(tmp_path: Path) -> None:
    written(tmp_path, base="domain: toy\n", b="extends: base.yaml\nseed: 3\n")
    assert load_config(written(tmp_path, a="extends: base.yaml\nseed: 4\n")).seed == 4
    assert load_config(tmp_path / "b.yaml").seed == 3


def test_a_missing_base_is_named(tmp_path: Path) -> None:
    message = error_of(written(tmp_path, a="extends: gone.yaml\n"))
    assert "gone.yaml: no such configuration file" in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert error_of(tmp_path / "gone.yaml") == f"{tmp_path / 'gone.yaml'}: no such configuration file"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "must be a mapping"),
        (b"- a\n- b\n", "must be a mapping"),
        (b"just text", "must be a mapping"),
        (b"domain: [toy\n", "cannot be read as YAML"),
        (b"a:\n\t- b\n", "cannot be read as YAML"),
        (b"\xff\xfe\x00\x01", "cannot be read as YAML"),
        (b"domain: !!python/object/apply:os.getcwd []\n", "cannot be read as YAML"),
        (b"seed: 3\n", "no 'domain' given"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    message = error_of(path)
    assert str(path) in message
    assert words in message


def test_a_folder_is_no_configuration(tmp_path: Path) -> None:
    assert f"{tmp_path}: cannot be read as YAML" in error_of(tmp_path)


UNKNOWN = [
    ("toy", "seeed=1", "seeed", "seed"),
    ("toy", "latents.cout=1", "latents.cout", "count"),
    ("toy", "model.widht=1", "model.widht", "width"),
    ("toy", "model.noise.sigma_mx=1", "model.noise.sigma_mx", "sigma_max"),
    ("toy", "prior.deph=1", "prior.deph", "depth"),
    ("toy", "sampling.stpes=1", "sampling.stpes", "steps"),
    ("toy", "train.denoiser.stpes=1", "train.denoiser.stpes", "steps"),
    ("toy", "train.prior.ema.dcay=0.1", "train.prior.ema.dcay", "decay"),
    ("images", "model.denoiser.model_chanels=8", "model.denoiser.model_chanels", "model_channels"),
    ("images", "model.latent_tokens.head=8", "model.latent_tokens.head", "heads"),
]


@pytest.mark.parametrize(("name", "override", "key", "meant"), UNKNOWN, ids=[u[2] for u in UNKNOWN])
def test_an_unknown_key_is_an_error_that_guesses_what_was_meant(name: str, override: str, key: str, meant: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny_config(name, [override])
    assert str(caught.value) == f"test: unknown key '{key}'; did you mean '{meant}'?"


def test_an_unknown_key_like_no_other_gets_the_list_of_known_ones() -> None:
    with pytest.raises(ConfigError, match="known here: kind, count, codes, temperature"):
        tiny_config("toy", ["latents.zzz=1"])


def test_a_pair_that_is_half_given_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"train\.denoiser\.betas"):
        tiny_config("toy", ["train.denoiser.betas=[0.9]"])


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        tiny_config("toy", ["latents.cout=1", "seed=-3"])
    assert "latents.cout" in str(caught.value)
    assert "'seed' = -3 is not valid" in str(caught.value)


WRONG = [
    "seed=-1", "seed=1.5", "seed=abc", "latents=5", "latents.kind=fuzzy", "latents.count=0", "latents.drop=1.5",
    "latents.count=[1, 2]", "latents.temperature=0", "model=null", "model.noise=3", "model.noise.grid=straight",
    "model.noise.sigma_min=-1", "prior.width=wide", "sampling.top_p=0", "sampling.sampler=5",
    "train=[]", "train.denoiser=12", "train.denoiser.lr=0", "train.denoiser.batch=2.5", "train.denoiser.betas=0.9",
    "train.denoiser.ema.std=0.5", "train.denoiser.precision=fp8", "train.denoiser.steps=null",
]  # fmt: skip


@pytest.mark.parametrize("override", WRONG)
def test_a_wrong_value_is_named_with_its_key(override: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(ConfigError, match="is not valid") as caught:
        tiny_config("toy", [override])
    assert f"test: '{key}" in str(caught.value)


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf", "nan", "inf"])
@pytest.mark.parametrize("key", ["train.denoiser.lr", "model.noise.mean", "latents.kl_weight", "sampling.guidance"])
def test_nan_and_infinity_are_not_numbers(key: str, number: str) -> None:
    with pytest.raises(ConfigError, match=f"'{key}' = .* is not valid"):
        tiny_config("toy", [f"{key}={number}"])


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.denoiser.betas=[1.5, 0.9]"],
        ["model.class_drop=-0.5"],
        ["model.class_drop=2.0"],
        ["model.noise.sigma_min=5.0", "model.noise.sigma_max=1.0"],
    ],
    ids=lambda o: o[0],
)
def test_numbers_outside_their_range_are_refused(overrides: list[str]) -> None:
    with pytest.raises(ConfigError):
        tiny_config("toy", overrides)


@pytest.mark.parametrize("raw", [{}, {"seed": 1}, {"domain": "toyy"}, {"domain": None}], ids=str)
def test_a_tree_without_a_known_domain_is_an_error(raw: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="domain"):
        parse_config(raw, "test")


def test_a_misspelt_domain_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="unknown domain 'imges'; did you mean 'images'"):
        parse_config({**tiny_tree("toy"), "domain": "imges"}, "test")


def test_a_configuration_cannot_be_changed() -> None:
    config = tiny_config("toy")
    with pytest.raises(ValidationError):
        config.seed = 1  # type: ignore[misc]
    assert isinstance(config, RunConfig)


def test_a_stage_without_settings_has_the_defaults() -> None:
    config = parse_config({"domain": "toy"}, "test")
    assert config.stage("prior") == StageConfig()
    assert math.isclose(config.stage("denoiser").lr, 1e-3)
