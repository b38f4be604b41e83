"""The measurements of what latents do: closed forms, chance, a model against itself, and runs that go on."""

import json
import math
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.docking_latents import common, loss, meaning, prior, sampling
from benchmarks.docking_latents.__main__ import main
from benchmarks.docking_latents.nodes import Nodes, nodes_of
from core.errors import RequestError
from core.interfaces import Denoiser, PriorNet
from core.pipeline import Pipeline
from core.types import LatentLogits, Latents
from domains.docking.complex import Complex
from domains.docking.geometry import DockingGeometry
from tests.docking_models import save_model

ALL = Namespace(split="all", complexes=None, margin=6.0)
OPTIONS = ("--split", "all", "--margin", "6")


class Silent(Denoiser):
    """Answers 0."""

    def forward(self, state: Any, level: Tensor, latents: Latents | None, batch: Any) -> Mapping[str, Tensor]:
        zero = level.new_zeros(batch.size, 3)
        return {"tr": zero, "rot": zero, "tor": level.new_zeros(state.torsions.mask.shape)}


class Uniform(PriorNet):
    """Knows how many nodes there are, and nothing else."""

    def forward(self, batch: Any, codes: Tensor) -> LatentLogits:
        complexes = batch.structure(torch.float32)
        return LatentLogits(torch.zeros(batch.size, 2, complexes.pointer_mask.shape[1]), complexes.pointer_mask)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("latents")
    return save_model(folder / "model", overrides=[f"model.data.cache={folder / 'cache'}", "model.data.workers=0"])


@pytest.fixture(scope="module")
def pipeline(model: Path) -> Pipeline:
    return Pipeline.from_pretrained(model, "cpu")


@pytest.fixture(scope="module")
def complexes(pipeline: Pipeline) -> list[Complex]:
    return common.pockets(pipeline, ALL)


def seen(kinds: tuple[str, ...], chosen: int, foreseen: np.ndarray) -> prior.Seen:
    """A complex whose one latent is always the same node."""
    count = len(kinds)
    nodes = Nodes(kinds, np.zeros(count, bool), np.zeros(count, bool), np.zeros(count), np.zeros((0, count)))
    return prior.Seen(nodes, np.array([[chosen]]), np.eye(count)[[chosen]], foreseen[None, None])


def test_the_loss_of_a_silent_network_is_the_variance_of_the_noise(complexes: list[Complex]) -> None:
    each = next(one for one in complexes if one.graph["ligand"].group.max() >= 0)
    found = loss.losses_of(
        {"silent": (Silent(), None)}, DockingGeometry(), each, [0.3, 1.0], 4000, 0, torch.device("cpu")
    )
    assert found.shape == (1, 2, 4)
    for row in found[0]:
        assert row == pytest.approx([1 / 3, 1 / 9, 1 / 3, 7 / 9], rel=0.06)
        assert row[3] == pytest.approx(row[:3].sum(), rel=1e-5)


def test_a_model_against_itself_differs_nowhere(pipeline: Pipeline, complexes: list[Complex]) -> None:
    found = loss.measure(pipeline, pipeline, complexes[:2], [0.2, 0.9], draws=2)
    assert set(found) == {"encoder", "prior", "dropped", "random", "plain"}
    paired = loss.differences(found)
    # Without latents a model with latents sees them as dropped.
    for part in (part for row in paired["dropped - plain"] for part in row):
        assert (part.value, part.low, part.high) == (0, 0, 0)
    assert any(row[-1].value != 0 for row in paired["encoder - dropped"])
    verdict = next(line for line in loss.verdicts(found, [0.2, 0.9]) if line.startswith("dropped - plain"))
    assert verdict.count("none") == 2


def test_a_difference_that_is_there_is_called_significant() -> None:
    noise = np.random.default_rng(0).normal(size=(40, 1, 4))
    losses = {"encoder": np.concatenate([noise, noise], 1), "dropped": np.concatenate([noise + 0.1, noise], 1)}
    (line,) = loss.verdicts(losses, [0.3, 0.7])
    assert line == "encoder - dropped: significant at t = 0.3 (one by one); 0.3 (all times at once)"


def test_other_noise_has_no_common_loss(pipeline: Pipeline, complexes: list[Complex], tmp_path: Path) -> None:
    other = Pipeline.from_pretrained(save_model(tmp_path / "other", overrides=["model.noise.tr=[0.1,7.0]"]), "cpu")
    with pytest.raises(RequestError, match=r"model\.noise"):
        loss.measure(pipeline, other, complexes, [0.5], draws=1)


def test_a_uniform_prior_foresees_by_chance(pipeline: Pipeline, complexes: list[Complex]) -> None:
    blind = Pipeline(pipeline.domain, {**pipeline.networks, "prior": Uniform()})
    every = [prior.see(blind, each, draws=3) for each in complexes]
    found = prior.figures(every)
    for number, each in enumerate(complexes):
        for top in prior.TOP:
            assert found["prior"][f"top-{top}"][number] == pytest.approx(top / each.nodes)
            assert found["chance"][f"top-{top}"][number] == pytest.approx(top / each.nodes)
        assert found["prior"]["log-likelihood"][number] == pytest.approx(-math.log(each.nodes))
    assert (prior.entropies(every) <= np.log([[each.nodes] for each in complexes]) + 1e-9).all()


def test_accuracies_and_kinds_of_choices_made_by_hand() -> None:
    assert prior.hits(np.array([0.1, 0.7, 0.2]), np.array(1), 1) == 1
    assert prior.hits(np.array([0.1, 0.7, 0.2]), np.array(0), 2) == 0
    assert prior.hits(np.array([0.4, 0.4, 0.2]), np.array(0), 1) == 0.5
    sure = np.log(np.array([0.8, 0.1, 0.1]))
    every = [seen(("ASP", "LEU", "LEU"), 0, sure) for _ in range(5)]
    found = prior.figures(every)
    assert found["prior"]["top-1"].ravel() == pytest.approx(np.ones(5))
    assert found["kinds"]["top-1"].ravel() == pytest.approx(np.ones(5))  # aspartate is chosen in all the others
    assert found["prior"]["log-likelihood"].ravel() == pytest.approx(np.full(5, math.log(0.8)))
    rates = prior.kind_rates(every, 0, 0)
    assert rates["ASP"] == pytest.approx((4 + 4 / 12) / 5)
    assert rates["LEU"] == pytest.approx((4 / 12) / 9)
    chosen, there = prior.kind_entropies(every)
    assert chosen == pytest.approx([0.0])
    assert there == pytest.approx(-(math.log(1 / 3) / 3 + 2 * math.log(2 / 3) / 3))


def test_nodes_have_the_distances_of_their_atoms(complexes: list[Complex]) -> None:
    each = complexes[0]
    nodes, protein, truth = nodes_of(each), each.receptor.protein, each.ligand.coordinates
    assert truth is not None
    assert nodes.size == each.nodes == nodes.atom.sum() + protein.n_residues
    assert nodes.kinds[-protein.n_residues :] == protein.names
    last = protein.positions[protein.residue == protein.n_residues - 1]
    gaps = np.linalg.norm(last[:, None] - truth[None], axis=-1)
    assert nodes.distance[-1] == pytest.approx(gaps.min())
    assert nodes.reach[:, -1] == pytest.approx(gaps.min(0))
    assert nodes.distance[nodes.atom].max() == pytest.approx(np.linalg.norm(truth - truth.mean(0), axis=1).max())


def test_meaning_of_choices_made_by_hand() -> None:
    nodes = Nodes(
        ("N ring", "C", "ASP", "LEU"), np.array([True, True, False, False]), np.array([True, False, False, False]),
        np.array([1.0, 1.0, 3.0, 6.0]), np.array([[3.0, 7.0], [8.0, 6.0]]),
    )  # fmt: skip
    draws = np.eye(4)[[[0, 2], [0, 2], [2, 3], [1, 0]]]  # [D, M, K]: twice nitrogen and aspartate, once the two others
    found = {"encoder": meaning.pointed(draws, 2), "random node": meaning.pointed(np.full((1, 2, 4), 0.25), 2)}
    assert found["encoder"].pairs.tolist() == [[0.5, 0], [0, 0]]
    looked = [(nodes, found)] * 3
    first, second = meaning.slot_figures(looked)["encoder"]
    assert first["% ligand atoms"].value == 0.75
    assert first["residue's distance"].value == 3
    assert second["% residues < 4 A"].value == pytest.approx(2 / 3)
    assert first["% atoms in rings"].value == first["% atoms not carbon"].value == pytest.approx(2 / 3)
    pairs = meaning.pair_figures(looked)
    assert pairs["encoder"]["pairs atom-residue"].value == 0.5
    assert pairs["encoder"]["% pairs < 4 A"].value == 1
    assert pairs["random node"]["% pairs < 4 A"].value == 0.25
    assert pairs["encoder, atom at random"]["% pairs < 4 A"].value == 0.5
    chosen, share, background, times = meaning.kind_figures(looked, "encoder", atoms=False)["ASP"]
    assert chosen == pytest.approx(3 * 0.75)
    assert (share.value, background.value, times.value) == pytest.approx((0.75, 0.5, 1.5))


def test_intervals_leave_out_what_says_nothing() -> None:
    found = common.interval([1.0, 3.0, math.nan])
    assert (found.value, found.low, found.high) == (2, 1, 3)
    assert common.ratio([1.0, 0.0], [4.0, 0.0]).value == 0.25
    assert math.isnan(common.ratio([0.0], [0.0]).value)


def test_every_command_writes_its_files(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    for name in ("loss", "prior", "meaning"):
        more = ("--times", "0.5", "--plain", str(model)) if name == "loss" else ()
        assert main([name, str(model), "--out", out, "--draws", "2", *OPTIONS, *more]) == 0
        assert capsys.readouterr().out.strip() == (tmp_path / "out" / f"{name}.md").read_text().strip()
        assert len(json.loads((tmp_path / "out" / f"{name}.json").read_text())["complexes"]) == 3
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_without_latents_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = save_model(tmp_path / "plain", "docking-plain", parts=["denoiser"])
    assert main(["prior", str(bare), "--out", str(tmp_path / "out"), *OPTIONS]) == 1
    assert "has no latents" in capsys.readouterr().err
    only = settings_names(Pipeline.from_pretrained(bare, "cpu"), "latents", "temperature", "guidance")
    assert only == ["none-T1-w0-euler-2"]


def settings_names(pipeline: Pipeline, *studies: str) -> list[str]:
    every = sampling.settings_of(pipeline, studies).values()
    return [setting.name for setting in dict.fromkeys(setting for each in every for setting in each)]


def test_settings_change_one_thing_each(pipeline: Pipeline) -> None:
    assert settings_names(pipeline, "latents") == [
        f"{source}-T1-w0-euler-2" for source in ("prior", "encoder", "dropped", "random")
    ]
    assert settings_names(pipeline, "temperature") == [f"prior-T{t}-w0-euler-2" for t in (1, 0.5, 2)]
    assert len(settings_names(pipeline, "guidance")) == 8
    names = settings_names(pipeline, "samplers")
    assert "prior-T1-w0-heun-3" in names  # its last step takes one call: 5 in all
    assert len(names) == 1 + 4 * len(sampling.SAMPLERS)


def test_sampling_goes_on_where_it_was(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["sampling", str(model), "--out", str(tmp_path), *OPTIONS, "--complexes", "2", "--studies", "latents"]
    arguments += ["--poses", "2"]
    docked: list[str] = []
    dock = sampling.dock

    def killed(pipeline: Pipeline, complexes: Any, setting: sampling.Setting, poses: int, seed: int) -> Any:
        if len(docked) == 2:
            raise KeyboardInterrupt
        docked.append(setting.source)
        return dock(pipeline, complexes, setting, poses, seed)

    monkeypatch.setattr(sampling, "dock", killed)
    with pytest.raises(KeyboardInterrupt):
        main(arguments)
    there = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "sampling").iterdir()}
    assert docked == ["prior", "encoder"]
    assert len(there) == 2
    monkeypatch.setattr(sampling, "dock", dock)
    assert main(arguments) == 0
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "sampling").iterdir()}
    assert len(files) == 4
    assert there.items() <= files.items()
    first, text = json.loads((tmp_path / "sampling.json").read_text()), capsys.readouterr().out
    assert main(arguments) == 0  # nothing is left to do
    assert json.loads((tmp_path / "sampling.json").read_text()) == first
    assert capsys.readouterr().out == text
    assert first["rows"]["prior-T1-w0-euler-2"]["more % < 2 A"] == [0, 0, 0]
    assert (tmp_path / "sampling.png").read_bytes().startswith(b"\x89PNG")
    assert main([*arguments[:-1], "3"]) == 1
    assert "of another run (poses)" in capsys.readouterr().err
