"""The authors' checkpoints in our software: recognised, converted, and giving the authors' answers."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.convert import convert
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
from domains.docking.networks.prior import AUTHORS_PRIOR, DockingPrior
from domains.docking.noise import TabledNoise
from domains.docking.pose import Pose, pose_of
from domains.docking.published import TABLE, convert_files
from tests.docking_support import GOLDEN, NO_GOLDEN, golden, golden_complex

if not GOLDEN.exists():
    pytest.skip(NO_GOLDEN, allow_module_level=True)


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
    score = pipeline.field(batch, from_codes(g["ar_choice"].T, int(batch.categories.max())))
    score.geometry = Recorded(pipeline.domain.model.noise.build())
    start = Pose.concatenate([pose_of(batch.complexes[0].graph)] * 4).moved_to(g["start_pos"].double())
    steps: list[Step] = []
    with torch.no_grad():
        end = pipeline.sampler().run(
            score, start, pipeline.domain.sampling_times(20), SampleStreams(0, batch.ids, "unused"), steps.append
        )
    ours = torch.stack([*(step.state.positions for step in steps[1:]), end.positions])
    torch.testing.assert_close(ours, g["pos_after_step"].double(), rtol=0, atol=5e-4)
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
    latents = from_codes(pointers.argmax(1), int(batch.categories.max()))
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
    assert model.evaluation.split == "all"


def test_the_configuration_has_the_quirks_of_the_networks(published: Path, pipeline: Pipeline) -> None:
    """Nothing that the converted networks were built with is lost on the way through the configuration."""
    found = convert_files(published)
    assert found is not None
    for name, ours in pipeline.networks.items():
        made = found.networks[name]
        if name == "confidence":
            assert made.options == ours.options == pipeline.config.model.confidence_options()
            continue
        assert made.get_submodule("backbone").options == ours.get_submodule("backbone").options
        if name == "prior":
            assert made.quirks == ours.quirks == AUTHORS_PRIOR
    assert pipeline.config.model.quirks.model_dump() == {
        "zero_cross_latents": True, "unsigned_reverse": True, "prior_channels": 16, "prior_shared_head": True,
        "shifted_language": True, "turn_double_bonds": True, "raw_chirality": True,
    }  # fmt: skip


def test_latents_that_were_never_dropped(tmp_path: Path) -> None:
    """Without null embeddings the model's configuration says so, and its prior has none either."""
    weights = {k: v for k, v in golden("weights_disco_score").items() if not k.endswith("_unconditional_embedding")}
    torch.save(weights, tmp_path / "m.pt")
    convert(tmp_path / "m.pt", tmp_path / "out")
    model = Pipeline.from_pretrained(tmp_path / "out", "cpu")
    assert model.config.latents.drop == 0
    assert model.denoiser.backbone.null is None
    inner = {k: v for k, v in golden("weights_ar").items() if not k.endswith("_unconditional_embedding")}
    torch.save(inner, tmp_path / "ar.pt")
    convert(tmp_path, tmp_path / "both")
    assert set(Pipeline.from_pretrained(tmp_path / "both", "cpu").networks) == {"denoiser", "prior"}


def test_latents_that_were_dropped(pipeline: Pipeline) -> None:
    assert pipeline.config.latents.drop > 0


def test_the_language_model_is_asked_for(tmp_path: Path) -> None:
    notes = convert(GOLDEN / "weights_plain_score.pt", tmp_path / "out")
    assert any("width 1280 (ESM-2 650M: 1280)" in note and "model.language=FOLDER" in note for note in notes)


def test_a_table_comes_with_the_weights(pipeline: Pipeline) -> None:
    scale, table = pipeline.denoiser.scale, golden("score_norm_tables")[TABLE]
    assert isinstance(scale, TabledNoise)
    assert torch.equal(scale.mean_squares, table.double())


def test_a_denoiser_without_latents_becomes_a_model_of_its_own(tmp_path: Path) -> None:
    notes = convert(GOLDEN / "weights_plain_score.pt", tmp_path / "plain")
    assert any("exact norms" in note for note in notes)
    plain = Pipeline.from_pretrained(tmp_path / "plain", "cpu")
    assert plain.config.latents.kind == "none"
    assert set(plain.networks) == {"denoiser"}
    assert plain.config.sampling.sampler == "low-temperature-diffdock-s"


def test_a_complex_is_named_by_its_nodes() -> None:
    each: Complex = golden_complex()
    assert each.nodes == 160
    assert each.node_name(0) == "atom 1 (N)" or each.node_name(0).startswith("atom 1 (")
    assert each.node_name(34).split()[0] in ("ALA", "GLY", "SER", "MET", "ASP", "PRO") or len(each.node_name(34)) > 3
