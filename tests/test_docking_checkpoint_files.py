"""Folders of the authors' checkpoints: which files are taken, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.convert import convert
from core.errors import CheckpointError
from core.pipeline import Pipeline
from domains.docking.noise import TABLE_SIZE
from domains.docking.published import TABLE
from tests.docking_support import GOLDEN, NO_GOLDEN, golden
from tests.support import disco

if not GOLDEN.exists():
    pytest.skip(NO_GOLDEN, allow_module_level=True)


# What matters of the authors' model_parameters.yml: each is of its own network, and sets what that network ignores.
SETTINGS = {
    "disco_diffdockS_score_model": "latent_dim: 2\nlatent_vocab: 1\nsh_lmax: 1\nsigma_embed_dim: 32\n",
    "disco_diffdockS_ar_model": "ns: 16\nnv: 4\nsh_lmax: 2\n",
    "paper_confidence_model": "all_atoms: true\ntr_sigma_max: 34.0\ntor_sigma_min: 0.0314\n",
    "diffdockS_score_model": "latent_dim: 0\nlatent_vocab: 64\nsh_lmax: 1\ntr_sigma_max: 19.0\n",
}
FILES = {
    "disco_diffdockS_score_model/best_ema_inference_epoch_model.pt": "weights_disco_score",
    "disco_diffdockS_ar_model/best_model_loss.pt": "weights_ar",
    "paper_confidence_model/best_model_epoch75.pt": "weights_confidence",
    "diffdockS_score_model/best_ema_inference_epoch_model.pt": "weights_plain_score",
}


def test_the_authors_work_folder_is_converted_as_it_is(tmp_path: Path) -> None:
    for name, text in SETTINGS.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "model_parameters.yml").write_text(text)
    for place, name in FILES.items():
        shutil.copy(GOLDEN / f"{name}.pt", tmp_path / place)
    whole = {f"score_model.{k}": v for k, v in golden("weights_disco_score").items()}
    whole |= {f"encoder.{k}": v for k, v in golden("weights_disco_encoder").items()}
    torch.save(whole, tmp_path / "disco_diffdockS_score_model" / "best_inference_epoch_model.pt")
    notes = convert(tmp_path, tmp_path / "model")
    assert set(Pipeline.from_pretrained(tmp_path / "model", "cpu").networks) == {
        "denoiser", "encoder", "prior", "confidence"
    }  # fmt: skip
    assert any("best_ema_inference_epoch_model.pt" in note and note.startswith("denoiser") for note in notes)
    convert(tmp_path / "diffdockS_score_model", tmp_path / "plain")
    assert Pipeline.from_pretrained(tmp_path / "plain", "cpu").config.latents.kind == "none"


# ---- several files of one kind --------------------------------------------------------------------------------------


def test_the_wrapper_of_encoder_and_denoiser_is_taken_apart(tmp_path: Path) -> None:
    """best_inference_epoch_model.pt holds both under prefixes; averaged weights in a file beside it beat its own."""
    whole = {f"score_model.{k}": v for k, v in golden("weights_disco_score").items()}
    whole |= {f"encoder.{k}": v for k, v in golden("weights_disco_encoder").items()}
    torch.save(whole, tmp_path / "best_inference_epoch_model.pt")
    convert(tmp_path, tmp_path / "both")
    both = Pipeline.from_pretrained(tmp_path / "both", "cpu")
    assert set(both.networks) == {"denoiser", "encoder"}
    averaged = {k: v * 2 if v.is_floating_point() else v for k, v in golden("weights_disco_score").items()}
    torch.save(averaged, tmp_path / "best_ema_inference_epoch_model.pt")
    convert(tmp_path, tmp_path / "averaged")
    ema = Pipeline.from_pretrained(tmp_path / "averaged", "cpu")
    name = "backbone.layers.0.ligand.hidden.weight"
    first, second = (p.networks["denoiser"].state_dict()[name] for p in (both, ema))
    assert torch.equal(2 * first, second)


def scaled(factor: float, name: str = "weights_plain_score") -> dict[str, Tensor]:
    return {k: v * factor if v.is_floating_point() else v for k, v in golden(name).items()}


def first_weight(model: Path) -> Tensor:
    weights = Pipeline.from_pretrained(model, "cpu").networks["denoiser"].state_dict()
    return weights["backbone.layers.0.ligand.hidden.weight"]


@pytest.mark.parametrize("raw", ["best_model.pt", "a_first_in_the_alphabet.pt"])
def test_averaged_weights_are_taken_before_raw_ones(raw: str, tmp_path: Path) -> None:
    torch.save(scaled(1), tmp_path / "best_ema_inference_epoch_model.pt")
    torch.save(scaled(2), tmp_path / raw)
    notes = convert(tmp_path, tmp_path / "out")
    assert f"denoiser: from {tmp_path / 'best_ema_inference_epoch_model.pt'}" in notes
    assert any("left out" in note and raw in note for note in notes)
    assert torch.equal(first_weight(tmp_path / "out"), golden("weights_plain_score")["conv_layers.0.fc.0.0.weight"])


def test_a_file_of_the_denoiser_alone_is_taken_before_the_wrapper(tmp_path: Path) -> None:
    whole = {f"score_model.{k}": v for k, v in scaled(2, "weights_disco_score").items()}
    whole |= {f"encoder.{k}": v for k, v in golden("weights_disco_encoder").items()}
    torch.save(whole, tmp_path / "z_wrapper.pt")
    torch.save(dict(golden("weights_disco_score")), tmp_path / "alone.pt")
    convert(tmp_path, tmp_path / "out")
    assert torch.equal(first_weight(tmp_path / "out"), golden("weights_disco_score")["conv_layers.0.fc.0.0.weight"])


@pytest.mark.parametrize("kind", ["plain_score", "ar", "confidence", "disco_encoder"])
def test_files_that_could_both_be_meant_are_listed(kind: str, published: Path, tmp_path: Path) -> None:
    shutil.copytree(published, tmp_path / "all")
    if kind == "plain_score":
        shutil.rmtree(tmp_path / "all" / "weights_disco_score")
    for name in ("one.pt", "two.pt"):
        shutil.copy(GOLDEN / f"weights_{kind}.pt", tmp_path / "all" / name)
    with pytest.raises(CheckpointError, match=r"several files could be the .*one\.pt, .*two\.pt.*; keep one of them"):
        convert(tmp_path / "all", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_not_of_the_model_may_be_ambiguous(published: Path, tmp_path: Path) -> None:
    """Two denoisers without latents beside one with them are left out, and said so."""
    for name in ("one.pt", "two.pt"):
        torch.save(scaled(1), tmp_path / name)
    shutil.copy(GOLDEN / "weights_disco_score.pt", tmp_path)
    notes = convert(tmp_path, tmp_path / "out")
    assert sum("denoiser without latents" in note for note in notes) == 2


# ---- files that cannot be converted ---------------------------------------------------------------------------------


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        convert(tmp_path / "missing", tmp_path / "out")


def test_nothing_known(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="no weights that any installed domain knows"):
        convert(tmp_path, tmp_path / "out")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "best_model.pt").write_bytes((GOLDEN / "weights_plain_score.pt").read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match=r"best_model\.pt: damaged"):
        convert(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    "junk", [b"junk", b"", b"PK\x03\x04 no archive", b"\x80\x02}q\x00.", b"\x80\x02ccollections\nx\n."]
)
def test_a_damaged_neighbour_is_left_out(junk: bytes, tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "weights_plain_score.pt", tmp_path / "m.pt")
    (tmp_path / "zz.pt").write_bytes(junk)
    notes = convert(tmp_path, tmp_path / "out")
    assert f"denoiser: from {tmp_path / 'm.pt'}" in notes
    Pipeline.from_pretrained(tmp_path / "out", "cpu")


def test_a_damaged_neighbour_is_noted(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "weights_plain_score.pt", tmp_path / "m.pt")
    (tmp_path / "zz.pt").write_bytes(b"junk")
    notes = convert(tmp_path, tmp_path / "out")
    assert any(note.startswith(f"left out: {tmp_path / 'zz.pt'}: damaged") for note in notes)
    for source in (tmp_path / "zz.pt", tmp_path / "only"):
        (tmp_path / "only").mkdir(exist_ok=True)
        shutil.copy(tmp_path / "zz.pt", tmp_path / "only")
        with pytest.raises(CheckpointError, match=r"zz\.pt: damaged"):
            convert(source, tmp_path / "none")


def test_an_encoder_of_something_else_is_not_taken_for_ours(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "weights_disco_score.pt", tmp_path / "m.pt")
    torch.save({"encoder.layers.0.weight": torch.zeros(2, 2), TABLE: torch.tensor(1.0)}, tmp_path / "vae.pt")
    convert(tmp_path, tmp_path / "out")
    assert set(Pipeline.from_pretrained(tmp_path / "out", "cpu").networks) == {"denoiser"}


def test_a_denoiser_without_its_node_embedding_is_named(tmp_path: Path) -> None:
    state = dict(golden("weights_disco_score"))
    del state["lig_node_embedding.additional_features_embedder.weight"]
    torch.save(state, tmp_path / "broken.pt")
    with pytest.raises(CheckpointError, match=r"no entry 'lig_node_embedding\.additional_features_embedder\.weight'"):
        convert(tmp_path, tmp_path / "out")


def test_a_torsion_table_must_be_positive(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "weights_plain_score.pt", tmp_path / "m.pt")
    torch.save({TABLE: torch.zeros(TABLE_SIZE)}, tmp_path / "table.pt")
    with pytest.raises(CheckpointError, match=r"table\.pt: .*not positive"):
        convert(tmp_path, tmp_path / "out")


def test_what_cannot_be_loaded_again_is_not_kept(tmp_path: Path) -> None:
    """An encoder of one latent beside a denoiser of two: each fits a layout, together they are no model."""
    torch.save(dict(golden("weights_disco_score")), tmp_path / "score.pt")
    encoder = dict(golden("weights_disco_encoder"))
    for head in ("latent_s_predictor", "latent_r_predictor"):
        for end in ("weight", "bias"):
            encoder[f"{head}.8.{end}"] = encoder[f"{head}.8.{end}"][:1]
    torch.save(encoder, tmp_path / "encoder.pt")
    with pytest.raises(CheckpointError, match=r"cannot be loaded.*nothing was kept"):
        convert(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(CheckpointError, match="nothing was kept"):
        convert(tmp_path, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_missing_entry_is_named(tmp_path: Path) -> None:
    state = dict(golden("weights_plain_score"))
    del state["conv_layers.2.fc.1.4.bias"]
    torch.save(state, tmp_path / "broken.pt")
    with pytest.raises(CheckpointError, match=r"no entry 'conv_layers\.2\.fc\.1\.4\.bias'"):
        convert(tmp_path, tmp_path / "out")


def test_an_entry_too_many_is_named(tmp_path: Path) -> None:
    torch.save({**golden("weights_plain_score"), "conv_layers.9.extra": torch.zeros(2)}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=r"mean nothing here: conv_layers\.9\.extra"):
        convert(tmp_path, tmp_path / "out")


def test_a_prior_alone_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no denoiser"):
        convert(GOLDEN / "weights_ar.pt", tmp_path / "out")


def test_settings_that_our_networks_do_not_have_are_refused(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "weights_plain_score.pt", tmp_path / "model.pt")
    (tmp_path / "model_parameters.yml").write_text("tr_sigma_max: 34.0\nsigma_embed_dim: 32\n")
    with pytest.raises(CheckpointError, match=r"tr_sigma_max is 34\.0"):
        convert(tmp_path, tmp_path / "out")


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, ("/tmp/disco-was-here", "w"))


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    trace = Path("/tmp/disco-was-here")
    trace.unlink(missing_ok=True)
    torch.save({"lig_node_embedding": Malicious()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="no weights that any installed domain knows"):
        convert(tmp_path, tmp_path / "out")
    assert not trace.exists()


def test_a_model_that_is_there_is_not_overwritten(published: Path, tmp_path: Path) -> None:
    convert(GOLDEN / "weights_plain_score.pt", tmp_path / "out")
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    with pytest.raises(CheckpointError, match="holds a model already"):
        convert(GOLDEN / "weights_plain_score.pt", tmp_path / "out")
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before


def test_the_command_says_what_it_took_from_where(published: Path, tmp_path: Path) -> None:
    done = disco("convert", published, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "denoiser: from" in done.stderr
    weights = json.loads((tmp_path / "out" / "manifest.json").read_text())["weights"]
    assert set(weights) == {"denoiser", "encoder", "prior", "confidence"}
    assert disco("convert", tmp_path / "nowhere", tmp_path / "new").returncode == 1
