"""The authors' checkpoints in our software: recognised, converted, and giving the authors' answers."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.convert import convert
from core.errors import CheckpointError
from core.latents import from_codes
from core.pipeline import Pipeline
from core.rng import SampleStreams
from core.samplers import Step
from core.types import Tangent
from domains.docking.batch import DockingBatch
from domains.docking.complex import Complex
from domains.docking.evaluation import confidences
from domains.docking.geometry import DockingGeometry
from domains.docking.networks.confidence import ConfidenceNet
from domains.docking.networks.prior import DockingPrior
from domains.docking.pose import Pose, pose_of
from tests.docking_support import GOLDEN, NO_GOLDEN, golden, golden_complex
from tests.support import disco

if not GOLDEN.exists():
    pytest.skip(NO_GOLDEN, allow_module_level=True)

WEIGHTS = ("weights_disco_score", "weights_disco_encoder", "weights_ar", "weights_confidence", "score_norm_tables")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the authors' work folder: one file per network, each in a place of its own."""
    folder = tmp_path_factory.mktemp("published")
    for name in WEIGHTS:
        (folder / name).mkdir()
        shutil.copy(GOLDEN / f"{name}.pt", folder / name)
    return folder


@pytest.fixture(scope="module")
def pipeline(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    out = tmp_path_factory.mktemp("converted") / "model"
    convert(published, out)
    return Pipeline.from_pretrained(out, "cpu")


@dataclass(frozen=True)
class Recorded(DockingGeometry):
    """Draws what the authors' generator drew; the noise of the last step, which is not used, does not matter."""

    drawn: list[int] = field(default_factory=list)

    def draw(self, state: Pose, streams: SampleStreams) -> Tangent:
        g, size = golden("trajectory_6w70"), len(streams)
        step = min(len(self.drawn), len(g["noise_tr"]) - 1)
        self.drawn.append(step)
        noise = {"tr": g["noise_tr"], "rot": g["noise_rot"], "tor": g["noise_tor"]}
        return {name: value[step].view(size, -1).double() for name, value in noise.items()}


def four_samples() -> DockingBatch:
    return DockingBatch(torch.arange(4), (golden_complex(),), (0,) * 4)


def test_a_whole_run_equals_the_authors_step_by_step(pipeline: Pipeline) -> None:
    """Low-temperature sampling with their temperatures, latents, start and noise: 20 steps of 4 samples."""
    g, batch = golden("trajectory_6w70"), four_samples()
    score = pipeline.field(batch, from_codes(g["ar_choice"].T, batch.categories))
    score.geometry = Recorded(pipeline.domain.model.noise.build())
    start = Pose.concatenate([pose_of(batch.complexes[0].graph)] * 4).moved_to(g["start_pos"].double())
    steps: list[Step] = []
    with torch.no_grad():
        end = pipeline.sampler().run(
            score, start, pipeline.domain.sampling_times(20), SampleStreams(0, batch.ids, "unused"), steps.append
        )
    ours = torch.stack([*(step.state.positions for step in steps[1:]), end.positions])
    torch.testing.assert_close(ours, g["pos_after_step"].double(), rtol=0, atol=1e-3)
    network = pipeline.networks["confidence"]
    assert isinstance(network, ConfidenceNet)
    torch.testing.assert_close(confidences(network, end, batch), g["confidence"][:, 0], rtol=1e-4, atol=1e-5)


def test_the_prior_draws_with_the_authors_probabilities(pipeline: Pipeline) -> None:
    g, batch, prior = golden("trajectory_6w70"), four_samples(), pipeline.networks["prior"]
    assert isinstance(prior, DockingPrior)
    positions = g["ar_pos"].reshape(-1, 3)
    for slot in (0, 1):
        with torch.no_grad():
            logits = prior.logits(batch.structure(torch.float32), positions, g["ar_choice"][:slot].T).masked[:, 0]
        ours = torch.softmax(logits / pipeline.config.sampling.prior_temperature, -1)
        theirs = g["ar_probs"][slot] / g["ar_probs"][slot].sum(-1, keepdim=True)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=0)


def test_what_is_read_back_equals_what_was_converted(pipeline: Pipeline, published: Path) -> None:
    """Through safetensors and the configuration: the outputs of the score network on the golden inputs."""
    g = golden("score_disco_6w70")
    batch = DockingBatch(torch.arange(3), (golden_complex(),), (0,) * 3)
    pointers = torch.cat([g["inputs"]["lig_latent"].view(3, -1, 2), g["inputs"]["rec_latent"].view(3, -1, 2)], 1)
    latents = from_codes(pointers.argmax(1), batch.categories)
    keep = g["inputs"]["lig_unconditional"].view(3, -1)[:, 0] == 0
    state = Pose.concatenate([pose_of(batch.complexes[0].graph)] * 3)
    state = state.moved_to(g["inputs"]["lig_pos"].view(3, -1, 3))
    with torch.no_grad():
        scores = pipeline.denoiser(state, g["inputs"]["t"], type(latents)(latents.values, keep), batch)
    for name in ("tr", "rot", "tor"):
        _relative(scores[name].reshape(g["outputs"][name].shape), g["outputs"][name], 1e-5)


def _relative(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    assert float((ours - theirs).abs().max()) <= tolerance * float(theirs.abs().max())


def test_the_configuration_says_what_was_converted(pipeline: Pipeline) -> None:
    config = pipeline.config
    assert (config.latents.kind, config.latents.count) == ("pointer", 2)
    assert config.sampling.sampler == "low-temperature-disco"
    assert config.sampling.prior_temperature == pytest.approx(4.4817, rel=1e-4)
    model = config.model
    assert (model.denoiser.layers, model.denoiser.scalars, model.denoiser.vectors) == (5, 24, 6)
    assert (model.encoder.layers, model.encoder.vectors, model.encoder.cross_cutoff) == (3, 4, 30.0)
    assert model.language_dim == 1280
    assert model.quirks.zero_cross_latents


def test_a_denoiser_without_latents_becomes_a_model_of_its_own(tmp_path: Path) -> None:
    notes = convert(GOLDEN / "weights_plain_score.pt", tmp_path / "plain")
    assert any("exact norms" in note for note in notes)
    plain = Pipeline.from_pretrained(tmp_path / "plain", "cpu")
    assert plain.config.latents.kind == "none"
    assert set(plain.networks) == {"denoiser"}
    assert plain.config.sampling.sampler == "low-temperature-diffdock-s"


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


def test_a_complex_is_named_by_its_nodes() -> None:
    each: Complex = golden_complex()
    assert each.nodes == 160
    assert each.node_name(0) == "atom 1 (N)" or each.node_name(0).startswith("atom 1 (")
    assert each.node_name(34).split()[0] in ("ALA", "GLY", "SER", "MET", "ASP", "PRO") or len(each.node_name(34)) > 3
