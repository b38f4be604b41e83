"""Model folders: what is written is read back bit for bit, and damage is named."""

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from core.checkpoint import Manifest, add_metrics, find_model, load_part, read_manifest, save_part, update_model
from core.errors import CheckpointError, DiscoError
from core.files import sha256
from core.pipeline import Pipeline
from tests.support import tiny_config


class Net(nn.Module):
    """Parameters, buffers of several types, a shape of its own."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 2)
        self.register_buffer("mean", torch.randn(4, dtype=torch.float64))
        self.register_buffer("seen", torch.tensor(7))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("transposed", torch.randn(3, 5).T)


def model_folder(path: Path, **parts: nn.Module) -> Path:
    update_model(path, Manifest(tiny_config("toy"), {}, "data-hash"), parts or {"denoiser": Net()})
    return path


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "manifest.json"
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def error_of(action: Callable[[], Any], path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        action()
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def load(folder: Path, name: str = "denoiser", module: nn.Module | None = None) -> nn.Module:
    return load_part(folder, name, module or Net(), read_manifest(folder))


def test_weights_and_buffers_come_back_bit_for_bit(tmp_path: Path) -> None:
    net = Net()
    loaded = load(model_folder(tmp_path, denoiser=net)).state_dict()
    assert set(loaded) == set(net.state_dict())
    for name, value in net.state_dict().items():
        assert loaded[name].dtype == value.dtype, name
        assert torch.equal(loaded[name], value), name


def test_the_manifest_comes_back(tmp_path: Path) -> None:
    manifest = read_manifest(model_folder(tmp_path))
    assert manifest.config.model_dump() == tiny_config("toy").model_dump()
    assert manifest.data_hash == "data-hash"
    assert manifest.licence == "MIT"
    assert manifest.weights == {"denoiser": sha256(tmp_path / "denoiser.safetensors")}


def test_the_manifest_is_plain_json_with_schema_and_versions(tmp_path: Path) -> None:
    tree = json.loads((model_folder(tmp_path) / "manifest.json").read_text())
    assert tree["schema"] == 1
    assert tree["torch_version"] == torch.__version__
    assert {"disco_version", "git_commit", "licence", "config", "weights", "metrics"} <= set(tree)


def test_saving_returns_the_checksum_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    digest = save_part(tmp_path, "denoiser", Net())
    assert digest == sha256(tmp_path / "denoiser.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["denoiser.safetensors"]


def test_one_flipped_byte_is_found(tmp_path: Path) -> None:
    path = model_folder(tmp_path) / "denoiser.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x10
    path.write_bytes(content)
    message = error_of(lambda: load(tmp_path), path)
    assert "damaged" in message
    assert "copy the model folder again" in message


def test_a_truncated_file_is_found(tmp_path: Path) -> None:
    path = model_folder(tmp_path) / "denoiser.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    assert "damaged" in error_of(lambda: load(tmp_path), path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = model_folder(tmp_path) / "denoiser.safetensors"
    path.unlink()
    message = error_of(lambda: load(tmp_path), path)
    assert "missing" in message
    assert "copy the model folder again" in message


@pytest.mark.parametrize("other", [Net(width=4), nn.Linear(3, 2)], ids=["shape", "names"])
def test_weights_that_do_not_fit_the_network_are_named(tmp_path: Path, other: nn.Module) -> None:
    model_folder(tmp_path)
    message = error_of(lambda: load(tmp_path, module=other), tmp_path / "denoiser.safetensors")
    assert "does not fit" in message


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"text"', b"null", b"{}", b"\xff\xfe", b"\x80\x04K\x01."])
def test_a_manifest_that_is_not_one_is_named(tmp_path: Path, content: bytes) -> None:
    path = model_folder(tmp_path) / "manifest.json"
    path.write_bytes(content)
    message = error_of(lambda: read_manifest(tmp_path), path)
    assert "damaged" in message
    assert "copy the model folder again" in message


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_another_schema_is_named_with_both_numbers(tmp_path: Path, schema: Any) -> None:
    edit_manifest(model_folder(tmp_path), lambda tree: tree.update(schema=schema))
    message = error_of(lambda: read_manifest(tmp_path), tmp_path / "manifest.json")
    assert f"schema {schema}" in message
    assert "reads schema 1" in message
    assert "train again" in message


@pytest.mark.parametrize("key", ["schema", "config", "weights", "data_hash", "git_commit", "licence", "metrics"])
def test_a_missing_key_of_the_manifest_is_an_error(tmp_path: Path, key: str) -> None:
    edit_manifest(model_folder(tmp_path), lambda tree: tree.pop(key))
    message = error_of(lambda: read_manifest(tmp_path), tmp_path / "manifest.json")
    assert "damaged" in message
    assert key in message or key == "schema"


def test_a_model_without_its_denoiser_is_an_error(tmp_path: Path, trained: Callable[[str], Path]) -> None:
    Pipeline.from_pretrained(trained("toy")).save_pretrained(tmp_path)
    edit_manifest(tmp_path, lambda tree: tree["weights"].pop("denoiser"))
    with pytest.raises(CheckpointError, match="denoiser"):
        Pipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("config", [{}, {"domain": "toy", "modle": {}}], ids=repr)
def test_a_manifest_with_a_wrong_configuration_names_its_path(tmp_path: Path, config: Any) -> None:
    edit_manifest(model_folder(tmp_path), lambda tree: tree.update(config=config))
    with pytest.raises(DiscoError, match="manifest") as caught:
        read_manifest(tmp_path)
    assert str(tmp_path / "manifest.json") in str(caught.value)


def test_a_folder_without_manifest_is_named(tmp_path: Path) -> None:
    assert "no such file" in error_of(lambda: read_manifest(tmp_path), tmp_path / "manifest.json")


def test_a_model_is_found_in_its_own_folder_and_in_its_run_folder(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "run" / "model")
    assert find_model(tmp_path / "run") == folder
    assert find_model(str(folder)) == folder


@pytest.mark.parametrize(("name", "words"), [("gone", "no such folder"), (".", r"no manifest\.json in it")])
def test_where_no_model_is_the_error_tells_what_to_give(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(
        CheckpointError, match=f"{words}; give the folder that 'disco train -o' or 'disco convert' wrote"
    ):
        find_model(tmp_path / name)


def test_a_later_stage_leaves_the_other_parts_alone(tmp_path: Path) -> None:
    model_folder(tmp_path, denoiser=Net(), encoder=Net())
    before = (tmp_path / "encoder.safetensors").read_bytes()
    first = dict(read_manifest(tmp_path).weights)
    manifest = update_model(tmp_path, Manifest(tiny_config("toy"), {}, "data-hash"), {"prior": Net()})
    assert set(manifest.weights) == {"denoiser", "encoder", "prior"}
    assert {name: manifest.weights[name] for name in first} == first
    assert (tmp_path / "encoder.safetensors").read_bytes() == before
    assert read_manifest(tmp_path).weights == manifest.weights


def test_a_part_that_is_written_again_gets_its_new_checksum(tmp_path: Path) -> None:
    model_folder(tmp_path)
    net = Net()
    update_model(tmp_path, Manifest(tiny_config("toy"), {}), {"denoiser": net})
    loaded = load(tmp_path)
    assert torch.equal(loaded.get_parameter("layer.weight"), net.layer.weight)


def test_metrics_are_added_to_those_already_there(tmp_path: Path) -> None:
    model_folder(tmp_path)
    add_metrics(tmp_path, {"w2": 0.5, "nfe": 35.0})
    add_metrics(tmp_path, {"w2": 0.25})
    manifest = read_manifest(tmp_path)
    assert manifest.metrics == {"w2": 0.25, "nfe": 35.0}
    assert manifest.data_hash == "data-hash"
    load(tmp_path)


def test_a_pickle_disguised_as_weights_is_not_executed(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return open, (str(tmp_path / "executed"), "w")

    model_folder(tmp_path)
    archive = io.BytesIO()
    torch.save(Bomb(), archive)
    for content in (pickle.dumps(Bomb()), archive.getvalue()):
        path = tmp_path / "denoiser.safetensors"
        path.write_bytes(content)
        edit_manifest(tmp_path, lambda tree: tree["weights"].update(denoiser=sha256(tmp_path / "denoiser.safetensors")))
        error_of(lambda: load(tmp_path), path)
    assert not (tmp_path / "executed").exists()
