"""ESM-2 embeddings against the reference implementations, windows, the cache, and folders with the wrong content."""

import argparse
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.cache import cache_folder
from core.errors import CheckpointError, RequestError, StorageError
from domains.docking import esm2, language
from domains.docking.esm2 import ALPHABET, ESM2Files
from domains.docking.language import LanguageModel, window_starts

TINY = load_file(Path(__file__).parent / "data" / "docking" / "esm2_tiny.safetensors")
WIDTH = 16
CONFIG = {
    "model_type": "esm", "position_embedding_type": "rotary", "token_dropout": True, "vocab_size": 33,
    "hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 2, "layer_norm_eps": 1e-5,
    "emb_layer_norm_before": False, "intermediate_size": 64,
}  # fmt: skip
TO_AUTHORS = {
    "esm.embeddings.word_embeddings": "embed_tokens", "esm.encoder.emb_layer_norm_after": "emb_layer_norm_after",
    "esm.encoder.layer": "layers", "attention.self.query": "self_attn.q_proj", "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj", "attention.output.dense": "self_attn.out_proj",
    "attention.LayerNorm": "self_attn_layer_norm", "intermediate.dense": "fc1", "output.dense": "fc2",
}  # fmt: skip
SEQUENCES = [
    "".join(ALPHABET[token] for token in TINY[f"expected.tokens.{index}"].tolist()[1:-1]) for index in range(3)
]


def weights() -> dict[str, Tensor]:
    return {name.removeprefix("weights."): value for name, value in TINY.items() if name.startswith("weights.")}


def hugging_face(folder: Path, state: Mapping[str, Tensor] | None = None, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    save_file(dict(state or weights()), folder / "model.safetensors")
    return folder


def authors(folder: Path, content: object = None) -> Path:
    """The layout of fair-esm, from the same weights."""
    folder.mkdir(exist_ok=True)
    state = {}
    for name, value in weights().items():
        for old, new in TO_AUTHORS.items():
            name = name.replace(old, new)  # noqa: PLW2901
        name = re.sub(r"(layers\.\d+)\.LayerNorm", r"\1.final_layer_norm", name)  # noqa: PLW2901
        state[("encoder." if name.startswith("lm_head") else "encoder.sentence_encoder.") + name] = value
    options = argparse.Namespace(encoder_embed_dim=WIDTH, encoder_layers=3, encoder_attention_heads=2, arch="esm2")
    torch.save(content or {"cfg": {"model": options}, "model": state}, folder / "esm2_t3_tiny.pt")
    torch.save({"model": {}}, folder / "esm2_t3_tiny-contact-regression.pt")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DISCO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path) -> LanguageModel:
    return LanguageModel.from_folder(hugging_face(tmp_path / "esm"), width=WIDTH)


def no_network(*_: object) -> None:
    raise AssertionError("the network is not needed")


def random_sequence(length: int, seed: int = 0) -> str:
    return "".join(np.random.default_rng(seed).choice(list("LAGVSERTIDPKQNFYMHWC"), size=length))


# The network


def layouts(folder: Path) -> dict[str, Path]:
    binary = hugging_face(folder / "binary")
    torch.save(load_file(binary / "model.safetensors"), binary / "pytorch_model.bin")
    (binary / "model.safetensors").unlink()
    norms = {
        name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): value
        for name, value in weights().items()
    }
    bare = {name.removeprefix("esm."): value for name, value in weights().items() if name.startswith("esm.")}
    return {
        "safetensors": hugging_face(folder / "hf"),
        "bin": binary,
        "gamma and beta": hugging_face(folder / "norms", norms),
        "without a head": hugging_face(folder / "bare", bare),
        "authors": authors(folder / "pt"),
        "authors' file": authors(folder / "pt") / "esm2_t3_tiny.pt",
    }


def test_last_layer_without_end_tokens_in_every_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, path in layouts(tmp_path).items():
        monkeypatch.setenv("DISCO_CACHE", str(tmp_path / f"cache of {name}"))
        found = LanguageModel.from_folder(path, width=WIDTH).embed(SEQUENCES)
        for index, (sequence, values) in enumerate(zip(SEQUENCES, found, strict=True)):
            last = TINY[f"expected.layer3.{index}"].numpy()
            assert (values.shape, values.dtype) == ((len(sequence), WIDTH), np.float32)
            np.testing.assert_allclose(values, last[1:-1], atol=2e-5, err_msg=name)
            assert np.abs(values - TINY[f"expected.layer2.{index}"].numpy()[1:-1]).max() > 0.1  # not the one before
            if len(sequence) > 1:  # nor shifted by a token
                assert np.abs(values - last[:-2]).max() > 0.1
                assert np.abs(values - last[2:]).max() > 0.1


def test_tokens_are_those_of_esm2() -> None:
    assert len(ALPHABET) == 33
    assert [ALPHABET.index(token) for token in ("<cls>", "<pad>", "<eos>", "<unk>", "L", "X", "-", "<mask>")] == [
        0, 1, 2, 3, 4, 24, 30, 32,
    ]  # fmt: skip


def test_unknown_residues_are_x(model: LanguageModel) -> None:
    known, unknown, gap = model.embed(["ACXDE", "ACJDE", "AC-DE"])
    np.testing.assert_array_equal(known, unknown)
    assert np.abs(known - gap).max() > 1e-3
    for wrong in ("ACdE", "AC DE", "AC1DE", "ACDE*", "ÀC"):
        with pytest.raises(RequestError, match="one-letter codes in capitals"):
            model.embed([wrong])
    with pytest.raises(RequestError, match="empty sequence"):
        model.embed(["AC", ""])


def test_company_does_not_matter(model: LanguageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sequences = [random_sequence(5 + seed % 3, seed) for seed in range(12)]
    together = model.embed([*sequences, sequences[0]])
    assert model.embed([]) == []
    np.testing.assert_array_equal(together[0], together[-1])
    monkeypatch.setenv("DISCO_CACHE", str(tmp_path / "other"))
    for sequence, values in zip(sequences, together[:-1], strict=True):
        np.testing.assert_allclose(model.embed([sequence])[0], values, atol=1e-5)
    again = tmp_path / "again"
    monkeypatch.setenv("DISCO_CACHE", str(again))
    for first, second in zip(together, model.embed([*sequences, sequences[0]]), strict=True):
        np.testing.assert_array_equal(first, second)  # the same request, bit for bit


def test_calls_are_bounded_and_of_one_length(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "TOKENS_AT_ONCE", 40)
    model.window = 10
    model.embed(["A"])  # loads the network
    assert model._network is not None
    shapes: list[tuple[int, ...]] = []
    model._network.register_forward_pre_hook(lambda _, arguments: shapes.append(tuple(arguments[0].shape)))
    sequences = [random_sequence(length, seed) for seed, length in enumerate([8, 3, 8, 8, 8, 8, 35, 60])]
    assert [len(values) for values in model.embed(sequences)] == [8, 3, 8, 8, 8, 8, 35, 60]
    assert all(rows * tokens <= 40 for rows, tokens in shapes)
    assert shapes.count((4, 10)) == 1  # four of eight residues share a call
    assert len(shapes) == 1 + 2 + 2 + 4  # three rows of twelve tokens at a time: 6 windows of 35, 11 of 60


# Windows


@pytest.mark.parametrize("window", [1, 2, 5, 8, 1022])
def test_windows_cover_the_chain_and_overlap_by_half(window: int) -> None:
    for length in {1, window, window + 1, 2 * window, 2 * window + 1, 7 * window + 3}:
        starts = window_starts(length, window)
        assert starts[0] == 0
        assert starts[-1] == max(0, length - window)
        steps = np.diff(starts)
        assert (steps > 0).all()
        assert (steps <= max(1, window // 2)).all()
        fewest = 1 + -(-max(0, length - window) // max(1, window // 2))
        assert len(starts) == fewest


def test_long_chain_takes_every_residue_from_the_most_central_window(model: LanguageModel) -> None:
    sequence = random_sequence(27)
    model.window = 10
    found = model.embed([sequence])[0]
    starts = window_starts(27, 10)
    assert starts == [0, 4, 8, 12, 17]
    parts = model.embed([sequence[start : start + 10] for start in starts])
    for residue in range(27):
        distance = [abs(residue - (start + 4.5)) for start in starts]
        best = int(np.argmin(distance))
        np.testing.assert_allclose(found[residue], parts[best][residue - starts[best]], atol=1e-5)
        if 5 <= residue < 22:  # away from the ends of the chain
            assert distance[best] <= 2.5  # a quarter of the window


def test_a_window_that_is_long_enough_changes_nothing(model: LanguageModel, tmp_path: Path) -> None:
    sequence = random_sequence(30)
    whole = model.embed([sequence])[0]
    exact = LanguageModel.from_folder(tmp_path / "esm", width=WIDTH, window=30).embed([sequence])[0]
    cut = LanguageModel.from_folder(tmp_path / "esm", width=WIDTH, window=29).embed([sequence])[0]
    np.testing.assert_array_equal(whole, exact)
    assert np.abs(whole - cut).max() > 1e-4  # and is not taken from the cache of the whole chain
    with pytest.raises(RequestError, match="window of 0"):
        LanguageModel.from_folder(tmp_path / "esm", width=WIDTH, window=0)


# Proteins


def test_chains_follow_each_other_in_residue_order(model: LanguageModel) -> None:
    chains = {"B": "ACDEF", "A": "GHI", "C": "ACDEF"}
    found = model.residue_embeddings(chains, 13)
    assert found.shape == (13, WIDTH)
    first, second = model.embed(["ACDEF", "GHI"])  # each chain on its own
    np.testing.assert_array_equal(found, np.concatenate([first, second, first]))
    with pytest.raises(RequestError, match=r"13 residues \(B: 5, A: 3, C: 5\) but the protein has 12"):
        model.residue_embeddings(chains, 12)
    with pytest.raises(RequestError, match="0 residues"):
        model.residue_embeddings({}, 0)
    with pytest.raises(RequestError, match="chain Q: character 2"):
        model.residue_embeddings({"P": "AC", "Q": "Ac"}, 4)


# Cache


def test_cache_serves_without_the_network(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = model.embed(SEQUENCES)
    monkeypatch.setattr(ESM2Files, "load", no_network)
    again = LanguageModel.from_folder(tmp_path / "esm", width=WIDTH)
    for first, second in zip(computed, again.embed(SEQUENCES), strict=True):
        np.testing.assert_array_equal(first, second)
        assert second.flags.writeable
    with pytest.raises(AssertionError, match="not needed"):
        again.embed(["ACD"])


@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "empty", "short of a row"])
def test_damaged_cache_is_computed_again(model: LanguageModel, cache: Path, damage: str) -> None:
    computed = model.embed(["ACDEF"])[0]
    (file,) = (path for path in cache.rglob("*") if path.is_file())
    good = file.read_bytes()
    assert len(good) == 32 + 5 * WIDTH * 4
    file.write_bytes(
        {
            "flipped bit": good[:50] + bytes([good[50] ^ 1]) + good[51:],
            "truncated": good[:-7],
            "empty": b"",
            "short of a row": good[: -4 * WIDTH],
        }[damage]
    )
    np.testing.assert_array_equal(model.embed(["ACDEF"])[0], computed)
    assert file.read_bytes() == good


def test_cache_tells_models_apart(model: LanguageModel, tmp_path: Path) -> None:
    other = {
        name: value * 1.01 if name.endswith("word_embeddings.weight") else value for name, value in weights().items()
    }
    changed = LanguageModel.from_folder(hugging_face(tmp_path / "other", other), width=WIDTH)
    assert np.abs(model.embed(["ACDEF"])[0] - changed.embed(["ACDEF"])[0]).max() > 1e-4
    heads = LanguageModel.from_folder(hugging_face(tmp_path / "heads", num_attention_heads=4), width=WIDTH)
    assert np.abs(model.embed(["ACDEF"])[0] - heads.embed(["ACDEF"])[0]).max() > 1e-4  # the same weights file


def test_cache_folder_that_cannot_be_used_is_named(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DISCO_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="file"):
        model.embed(["AC"])
    monkeypatch.setenv("DISCO_CACHE", "~/elsewhere")
    assert cache_folder() == Path.home() / "elsewhere"
    monkeypatch.delenv("DISCO_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "disco-diff"


# Folders


def test_folders_without_the_right_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no ESM-2 language model; put the folder of facebook/esm2_t33_650M_UR50D"):
        LanguageModel.from_folder(tmp_path / "nowhere")
    with pytest.raises(RequestError, match="16 numbers per residue but the docking model takes 1280"):
        LanguageModel.from_folder(hugging_face(tmp_path / "esm"))
    with pytest.raises(RequestError, match="16 numbers per residue"):
        LanguageModel.from_folder(authors(tmp_path / "pt"))
    for change in ({"model_type": "bert"}, {"position_embedding_type": "absolute"}, {"emb_layer_norm_before": True}):
        with pytest.raises(RequestError, match="not an ESM-2"):
            LanguageModel.from_folder(hugging_face(tmp_path / "other", **change), width=WIDTH)
    (tmp_path / "pt" / "esm2_t6_other.pt").write_bytes((tmp_path / "pt" / "esm2_t3_tiny.pt").read_bytes())
    with pytest.raises(RequestError, match=r"several models \(esm2_t3_tiny.pt, esm2_t6_other.pt\)"):
        LanguageModel.from_folder(tmp_path / "pt")


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "esm"}'])
def test_damaged_configuration_is_named(tmp_path: Path, content: str) -> None:
    (hugging_face(tmp_path / "esm") / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json: not the configuration of an ESM-2"):
        LanguageModel.from_folder(tmp_path / "esm", width=WIDTH)


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    state = weights()
    del state["esm.encoder.layer.2.output.dense.bias"]
    cases = {
        r"1 of 51 tensors .* missing .*layers\.2\.fc2\.bias": state,
        r"layers\.0\.fc1\.weight": {
            **weights(), "esm.encoder.layer.0.intermediate.dense.weight": torch.zeros(60, WIDTH)
        },
        "not finite": {**weights(), "esm.embeddings.word_embeddings.weight": torch.full((33, WIDTH), torch.nan)},
    }  # fmt: skip
    for index, (reason, wrong) in enumerate(cases.items()):
        model = LanguageModel.from_folder(hugging_face(tmp_path / str(index), wrong), width=WIDTH)
        with pytest.raises(CheckpointError, match=reason):
            model.embed(["ACD"])
    file = hugging_face(tmp_path / "cut") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read"):
        LanguageModel.from_folder(tmp_path / "cut", width=WIDTH).embed(["ACD"])


def test_authors_file_that_is_something_else_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not an ESM-2 of fair-esm"):
        LanguageModel.from_folder(authors(tmp_path / "pt", {"model": {}}), width=WIDTH)
    (tmp_path / "pt" / "esm2_t3_tiny.pt").write_bytes(b"not weights at all")
    with pytest.raises(CheckpointError, match="cannot be read"):
        LanguageModel.from_folder(tmp_path / "pt", width=WIDTH)


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (os.environ["DISCO_CACHE"] + "-sprung",)


@pytest.mark.parametrize("layout", ["pt", "bin"])
def test_weights_that_bring_code_do_not_run_it(tmp_path: Path, cache: Path, layout: str) -> None:
    folder = hugging_face(tmp_path / "bin") if layout == "bin" else authors(tmp_path / "pt")
    (folder / "model.safetensors").unlink(missing_ok=True)
    torch.save({"model": Trap()}, folder / ("pytorch_model.bin" if layout == "bin" else "esm2_t3_tiny.pt"))
    with pytest.raises(CheckpointError, match="cannot be read"):
        LanguageModel.from_folder(folder, width=WIDTH).embed(["ACD"])
    assert not Path(f"{cache}-sprung").exists()


def test_network_has_the_published_size() -> None:
    with torch.device("meta"):
        network = esm2.ESM2(esm2.ESM2Shape(1280, 33, 20))
    count = sum(parameter.numel() for parameter in network.parameters())
    # esm2_t33_650M_UR50D as fair-esm builds it, less its two heads (for masked letters and for contacts).
    assert count == 651_043_254 - (1280 * 1281 + 2 * 1280 + 33) - (33 * 20 + 1)
