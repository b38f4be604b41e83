"""The confidence model that is trained: its poses, its losses, its stage in a run, and the figures of its ranking."""

import copy
import io
import logging
import math
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn

from core.checkpoint import read_manifest
from core.config import RunConfig
from core.errors import ConfigError, DataError
from core.geometry.rigid import rotation_matrix
from core.pipeline import Pipeline
from core.training.distributed import World
from core.training.logs import read_jsonl
from core.training.run import train
from domains.docking.batch import DockingBatch
from domains.docking.chemistry.pocket import Around
from domains.docking.data import DockingDataset
from domains.docking.domain import DockingDomain
from domains.docking.evaluation import confidences
from domains.docking.graph import Structure
from domains.docking.metrics.calibration import fit_calibration
from domains.docking.networks.confidence import ConfidenceNet
from domains.docking.networks.ranker import PoseRanker, surroundings
from domains.docking.pose import Pose
from domains.docking.ranking.data import PoseDataset, choose
from domains.docking.ranking.decoys import decoy_regions
from domains.docking.ranking.figures import auroc, ranking_figures
from domains.docking.ranking.held_out import HeldOut, calibrate
from domains.docking.ranking.losses import pair_losses, ranking_losses, soft_labels
from domains.docking.ranking.poses import LabelledPoses, PoseStore, make_all, make_poses
from domains.docking.ranking.stage import RankingStage, take_over
from domains.docking.sites.finder import find_sites
from domains.docking.sites.network import SiteNet
from tests.docking_models import forked, wait_for
from tests.support import streams, tiny_config

COARSE = [
    "model.confidence.kind=coarse", "model.confidence.network=vector", "model.confidence.atom_radius=6.0",
    "model.confidence.scalars=16", "model.confidence.vectors=4", "model.confidence.residue_radius=15.0",
    "model.ranking.poses=2", "model.ranking.noisy=6", "model.ranking.batch=1", "model.ranking.steps=2",
    "model.ranking.held_out=2",
]  # fmt: skip
DECOYS = [
    "model.sites.width=8", "model.sites.rounds=1", "model.ranking.decoys=3", "model.data.crop.margin=[8.0,10.0]",
]  # fmt: skip
ALONE = World(0, 1, torch.device("cpu"))


def config(*overrides: str) -> RunConfig:
    return tiny_config("docking", [*COARSE, *overrides])


def untrained(settings: RunConfig) -> Pipeline:
    domain = DockingDomain(settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Pipeline(domain, {name: build() for name, build in domain.parts().items()})


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return untrained(config())


@pytest.fixture(scope="module")
def dataset(pipeline: Pipeline) -> DockingDataset:
    domain = pipeline.domain
    assert isinstance(domain, DockingDomain)
    return DockingDataset(domain.model.data, "all")


@pytest.fixture(scope="module")
def store(pipeline: Pipeline, dataset: DockingDataset, tmp_path_factory: pytest.TempPathFactory) -> PoseStore:
    """The poses of a generation that nothing interrupted."""
    made = PoseStore(tmp_path_factory.mktemp("store"), {})
    made.open()
    make_all(pipeline, dataset, made, settings_of(pipeline))
    return made


def settings_of(pipeline: Pipeline) -> Any:
    domain = pipeline.domain
    assert isinstance(domain, DockingDomain)
    assert domain.model.ranking is not None
    return domain.model.ranking


def ranker(pipeline: Pipeline) -> PoseRanker:
    network = pipeline.networks["confidence"]
    assert isinstance(network, PoseRanker)
    return network


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.npz")}


# ---- poses ----------------------------------------------------------------------------------------------------------


def test_the_label_of_a_pose_is_its_distance_from_the_true_one(dataset: DockingDataset, store: PoseStore) -> None:
    for each in dataset.complexes:
        poses = store.load(each.name)
        assert poses is not None
        assert poses.sampled.tolist() == [True] * 2 + [False] * 6
        truth = each.ligand.coordinates
        assert truth is not None
        plain = np.sqrt(((poses.positions - truth) ** 2).sum(2).mean(1))
        assert (poses.rmsd <= plain + 1e-3).all()
        assert poses.rmsd[2] < 1.5  # the conformer that was laid on the true pose
        assert poses.rmsd[-1] > poses.rmsd[2]


def test_a_shifted_true_pose_has_the_rmsd_of_the_shift(
    pipeline: Pipeline, dataset: DockingDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = dataset.complexes[0]
    crystal, conformers = each.graph["ligand"].crystal, dataset.conformers
    moved = crystal + torch.tensor([0.0, 1.25, 0.0])
    monkeypatch.setattr(dataset, "conformers", [(moved,), *conformers[1:]])
    made = make_poses(pipeline, dataset, [0], settings_of(pipeline).model_copy(update={"noisy": 1, "noise_time": 0.0}))
    noise = 0.1 * 4  # Angstrom: the lowest level
    assert made[0].rmsd[2] == pytest.approx(1.25, abs=noise)


def test_poses_come_back_from_the_store_as_they_were(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    poses = LabelledPoses(
        "odd/name ü", generator.normal(size=(3, 5, 3)).astype(np.float32), np.array([1.0, np.nan, 3.0]),
        np.array([True, False, True]), np.array([0, 0, 2]),
    )  # fmt: skip
    store = PoseStore(tmp_path, {"a": 1})
    store.open()
    assert store.load("odd/name ü") is None
    store.save(poses)
    back = store.load("odd/name ü")
    assert back is not None
    for name in ("positions", "rmsd", "sampled", "site"):
        np.testing.assert_array_equal(getattr(back, name), getattr(poses, name))


def test_poses_of_other_networks_are_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    poses = LabelledPoses("x", np.zeros((1, 2, 3), np.float32), np.zeros(1), np.ones(1, bool), np.zeros(1, int))
    for about, kept in (({"networks": "a"}, False), ({"networks": "a"}, True), ({"networks": "b"}, False)):
        store = PoseStore(tmp_path, about)
        store.open()
        assert (store.load("x") is not None) is kept
        store.save(poses)
    assert "made anew" in caplog.text


@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_a_damaged_file_is_noticed_and_made_again(
    pipeline: Pipeline, dataset: DockingDataset, store: PoseStore, tmp_path: Path, where: float,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    copy = PoseStore(tmp_path, {})
    copy.open()
    for name, content in files(store.folder).items():
        (tmp_path / name).write_bytes(content)
    victim = copy.path(dataset.complexes[1].name)
    content = bytearray(victim.read_bytes())
    if where == 1.0:
        content = content[: len(content) // 2]
    else:
        content[int(where * len(content))] ^= 0xFF
    victim.write_bytes(content)
    assert copy.load(dataset.complexes[1].name) is None
    assert "is damaged" in caplog.text
    make_all(pipeline, dataset, copy, settings_of(pipeline))
    assert files(tmp_path) == files(store.folder)


def test_a_generation_that_was_killed_ends_as_if_it_had_not_been(
    pipeline: Pipeline, dataset: DockingDataset, store: PoseStore, tmp_path: Path
) -> None:
    folder, killed = tmp_path / "poses", PoseStore(tmp_path / "poses", {})
    killed.open()

    def work() -> None:
        replace_file, saved = os.replace, []

        def slow(source: Path, target: Path) -> None:
            saved.append(target)
            if len(saved) == 2:
                (tmp_path / "in the middle").touch()
                time.sleep(600)
            replace_file(source, target)

        os.replace = slow  # type: ignore[assignment]
        make_all(pipeline, dataset, killed, settings_of(pipeline))

    with forked(work, tmp_path / "output") as child:
        wait_for((tmp_path / "in the middle").exists, 120)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert len(files(folder)) == 1
    assert list(folder.glob(".*.tmp"))
    make_all(pipeline, dataset, killed, settings_of(pipeline))
    assert files(folder) == files(store.folder)


def test_processes_share_the_complexes(
    pipeline: Pipeline, dataset: DockingDataset, store: PoseStore, tmp_path: Path
) -> None:
    for rank, count in ((0, 2), (1, 3)):
        make_all(pipeline, dataset, PoseStore(tmp_path, {}), settings_of(pipeline), rank, 2)
        assert len(files(tmp_path)) == count
    assert files(tmp_path) == files(store.folder)


# ---- wrong sites ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finding() -> Pipeline:
    """A model with a site finder."""
    return untrained(config(*DECOYS))


@pytest.fixture(scope="module")
def decoys(finding: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> tuple[DockingDataset, PoseStore]:
    """Poses of crops of the complexes, three of each in wrong sites."""
    domain = finding.domain
    assert isinstance(domain, DockingDomain)
    data, made = domain.dataset("train"), PoseStore(tmp_path_factory.mktemp("decoys"), {})
    made.open()
    make_all(finding, data, made, settings_of(finding))
    return data, made


def site_net(pipeline: Pipeline) -> SiteNet:
    network = pipeline.networks["sites"]
    assert isinstance(network, SiteNet)
    return network


def test_wrong_sites_are_sites_far_from_the_ligand(finding: Pipeline, dataset: DockingDataset) -> None:
    network = site_net(finding)
    for whole in dataset.complexes:
        truth, protein = whole.ligand.coordinates, whole.receptor.whole
        assert truth is not None
        regions = decoy_regions(network, whole, 3, 8.0)
        assert [region.first for region in regions] == [0, *(region.last for region in regions[:-1])]
        assert not regions or regions[-1].last == 3
        found = find_sites(network, protein, 5)
        far = [site for site in found if cKDTree(truth).query(site.centre)[0] > 8.0]
        assert len(regions) <= min(2, len(far))
        for region in regions:
            near = [cKDTree(region.complex.receptor.protein.positions).query(site.centre)[0] for site in far]
            assert min(near) < 6.0


def test_poses_in_wrong_sites_are_wrong_and_come_last(decoys: tuple[DockingDataset, PoseStore]) -> None:
    data, made = decoys
    kept = [made.load(each.name) for each in data.complexes]
    assert any(poses is not None and poses.site.any() for poses in kept)
    for poses in kept:
        assert poses is not None
        assert poses.site[:8].tolist() == [0] * 8
        assert (poses.site[8:] > 0).all()
        assert len(poses.rmsd) in (8, 11)
        assert (poses.rmsd[8:] > 2).all()


def nearest(pose: np.ndarray, atoms: np.ndarray) -> float:
    """Angstrom between the nearest two atoms."""
    return float(cKDTree(atoms).query(pose)[0].min())


def test_a_pose_in_a_wrong_site_is_seen_in_its_surroundings(
    finding: Pipeline, decoys: tuple[DockingDataset, PoseStore]
) -> None:
    data, made = decoys
    samples = PoseDataset(data, made, settings_of(finding))
    seen = 0
    for number in range(12):
        batch = samples.load([number % len(samples)], [number])
        poses = made.load(data.complexes[samples.poses[number % len(samples)][0]].name)
        assert poses is not None
        for row in range(4):
            each = batch.poses.complexes[batch.poses.index[row]]
            place = batch.poses.clean.select(slice(row, row + 1)).flat.numpy() + each.receptor.centre
            k = int(np.abs(poses.positions - place).max((1, 2)).argmin())
            assert batch.rmsd[row].item() == pytest.approx(poses.rmsd[k], abs=1e-5)
            if poses.site[k] == 0:
                assert batch.poses.index[row] == 0
            else:
                seen += 1
                assert batch.poses.index[row] > 0
                same, cut_out = poses.positions[poses.site == poses.site[k]], each.receptor
                whole, kept = cut_out.whole.positions, cut_out.protein.positions
                assert any(nearest(pose, kept) == pytest.approx(nearest(pose, whole), abs=1e-6) for pose in same)
    assert seen > 4
    again = samples.load([0], [0])
    torch.testing.assert_close(again.poses.clean.flat, samples.load([0], [0]).poses.clean.flat, rtol=0, atol=0)


def test_poses_in_wrong_sites_need_a_trained_site_finder(pipeline: Pipeline) -> None:
    domain = DockingDomain(config("model.ranking.decoys=2"))
    with pytest.raises(ConfigError, match="site finder"):
        RankingStage(domain, domain.confidence(), dict(pipeline.networks))


def test_a_run_learns_ranking_from_wrong_sites_too(tmp_path: Path) -> None:
    sites = [f"train.sites.{setting}" for setting in ("steps=2", "batch=2")]
    train(config(*DECOYS, *TRAINING, *sites, "train.confidence.steps=2"), tmp_path, quiet=True)
    assert set(read_manifest(tmp_path / "model").weights) == {"denoiser", "encoder", "prior", "sites", "confidence"}
    stored = [np.load(io.BytesIO(content)) for content in files(tmp_path / "state" / "poses").values()]
    assert any(poses["site"].any() for poses in stored)


# ---- groups ---------------------------------------------------------------------------------------------------------


def test_half_of_a_group_is_good_as_far_as_there_are_such() -> None:
    rmsd = np.array([0.5, 1.0, 1.5, 3.0, 4.0, 5.0, 6.0, 7.0])
    for values, good in ((rmsd, 2), (rmsd[2:], 1), (rmsd[3:], 0), (rmsd[:4], 3), (rmsd[:3], 4)):
        for number in range(20):
            chosen = choose(values, 2.0, 4, number)
            assert len(chosen) == 4
            assert (values[chosen] < 2).sum() == good
            assert len(set(chosen)) == min(4, len(values))
    assert len({tuple(choose(rmsd, 2.0, 4, number)) for number in range(20)}) > 5
    assert choose(rmsd[:1], 2.0, 4, 0).tolist() == [0, 0, 0, 0]


def test_a_group_stands_where_its_poses_were_made(
    pipeline: Pipeline, dataset: DockingDataset, store: PoseStore
) -> None:
    poses = PoseDataset(dataset, store, settings_of(pipeline))
    assert len(poses) == 3
    batch = poses.load([2, 0], [11, 12])
    assert batch.poses.size == len(batch.rmsd) == 8
    assert batch.ids.tolist() == [11] * 4 + [12] * 4
    for row in range(8):
        each = batch.poses.complexes[batch.poses.index[row]]
        assert each.name == dataset.complexes[2 if row < 4 else 0].name
        kept = store.load(each.name)
        assert kept is not None
        place = batch.poses.clean.select(slice(row, row + 1)).flat.numpy() + each.receptor.centre
        distance = np.abs(kept.positions - place).max((1, 2))
        assert distance.min() < 1e-3
        assert batch.rmsd[row].item() == pytest.approx(kept.rmsd[distance.argmin()], abs=1e-5)


def test_without_any_rmsd_there_is_nothing_to_learn(
    pipeline: Pipeline, dataset: DockingDataset, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no pose with a known RMSD"):
        PoseDataset(dataset, PoseStore(tmp_path, {}), settings_of(pipeline))


# ---- losses ---------------------------------------------------------------------------------------------------------


def test_labels_are_half_at_the_threshold() -> None:
    rmsd = torch.tensor([1.0, 2.0, 2.5, 9.0])
    soft = soft_labels(rmsd, (2.0, 5.0), 0.5)
    torch.testing.assert_close(soft[:, 0], torch.tensor([2.0, 0.0, -1.0, -14.0]).sigmoid())
    torch.testing.assert_close(soft[:, 1], torch.tensor([8.0, 6.0, 5.0, -8.0]).sigmoid())
    assert soft_labels(rmsd, (2.0, 5.0), 0.0).tolist() == [[1, 1], [0, 1], [0, 1], [0, 0]]


def test_losses_are_their_formulas() -> None:
    scores, labels = torch.tensor([[1.0, -1.0, 0.0], [0.3, 0.2, 0.1]]), torch.tensor([[1.0, 0.0, 0.5], [1.0, 1.0, 1.0]])
    loss, order = pair_losses(scores, labels)
    pairs = 1.0 * math.log1p(math.exp(-2)) + 0.5 * math.log1p(math.exp(-1)) + 0.5 * math.log1p(math.exp(-1))
    torch.testing.assert_close(loss, torch.tensor([pairs / 2, 0.0]))
    assert order.tolist() == [1.0, 1.0]
    assert pair_losses(-scores, labels)[1].tolist() == [0.0, 1.0]
    logits, rmsd = torch.tensor([[0.0], [2.0]]), torch.tensor([1.0, 3.0])
    found = ranking_losses(logits, rmsd, 2, (2.0,), 0.0, 0.5)
    bce = torch.tensor([math.log(2), 2 + math.log1p(math.exp(-2))])
    torch.testing.assert_close(found["bce"], bce)
    torch.testing.assert_close(found["loss"], bce + 0.5 * (2 + math.log1p(math.exp(-2))))
    assert found["order"].tolist() == [0.0, 0.0]


# ---- the network ----------------------------------------------------------------------------------------------------


def turned(graph: Any, rotation: Tensor, shift: Tensor) -> Any:
    copy = graph.clone()
    for kind in ("ligand", "receptor", "atom"):
        copy[kind].pos = graph[kind].pos.double() @ rotation.T + shift
    return copy


@pytest.mark.parametrize("network", ["vector", "tensor"])
def test_the_ranker_sees_neither_rotation_nor_translation(dataset: DockingDataset, network: str) -> None:
    model = untrained(config(f"model.confidence.network={network}")).networks["confidence"].double()
    graphs = [each.graph for each in dataset.complexes]
    rotation, shift = rotation_matrix(torch.tensor([0.4, -1.1, 0.8]).double()), torch.tensor([3.0, -2.0, 1.0]).double()
    dtype = torch.float64
    crystal = torch.cat([graph["ligand"].crystal for graph in graphs]).double()
    before = model(Structure.of(graphs).to("cpu", dtype), crystal)
    moved = Structure.of([turned(g, rotation, shift) for g in graphs]).to("cpu", dtype)
    after = model(moved, crystal @ rotation.T + shift)
    assert before.shape == (3, 2)
    torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-8)
    assert not torch.allclose(model(Structure.of(graphs).to("cpu", dtype), crystal + 1.0), before, atol=1e-3)


def test_a_pose_alone_is_ranked_as_in_a_batch(pipeline: Pipeline, dataset: DockingDataset, store: PoseStore) -> None:
    batch = PoseDataset(dataset, store, settings_of(pipeline)).load([0, 1, 2], [5, 6, 7]).poses
    together = confidences(ranker(pipeline), batch.clean, batch)
    assert len(together.unique()) > 6
    for row in range(batch.size):
        one = batch.select(slice(row, row + 1))
        torch.testing.assert_close(
            confidences(ranker(pipeline), one.clean, one), together[row : row + 1], rtol=1e-4, atol=1e-5
        )


def test_surroundings_count_the_atoms_around(dataset: DockingDataset) -> None:
    graph = dataset.complexes[0].graph
    structure = Structure.of([graph])
    shells, near = surroundings(structure, graph["ligand"].crystal)
    distance = torch.cdist(graph["ligand"].crystal, graph["atom"].pos)
    torch.testing.assert_close(near, distance.amin(1).clamp_max(7.0), rtol=0, atol=1e-4)
    expected = (-((distance - 3.5) ** 2) / (2 * 0.4**2)).exp().where(distance <= 7, 0.0).sum(1) / 8
    torch.testing.assert_close(shells[:, 3], expected, rtol=1e-3, atol=1e-4)
    far, nearest = surroundings(structure, graph["ligand"].crystal + 500.0)
    assert far.abs().max() == 0
    assert (nearest == 7).all()


def test_a_graph_without_protein_atoms_is_refused(pipeline: Pipeline, dataset: DockingDataset) -> None:
    structure = Structure.of([dataset.complexes[0].graph])
    bare = replace(structure, protein_sample=None, protein_positions=None, protein_atoms=None)
    with pytest.raises(ValueError, match="without them"):
        surroundings(bare, dataset.complexes[0].graph["ligand"].crystal)


# ---- the stage ------------------------------------------------------------------------------------------------------


def test_the_stage_learns_to_rank(pipeline: Pipeline, dataset: DockingDataset, store: PoseStore) -> None:
    domain = DockingDomain(config())
    torch.manual_seed(0)
    stage = RankingStage(domain, domain.confidence(), {})
    poses = PoseDataset(dataset, store, settings_of(pipeline))
    optimizer, losses = torch.optim.Adam(stage.parameters(), lr=5e-3), []
    for step in range(60):
        batch = poses.load([0, 1, 2], range(3 * step, 3 * step + 3))
        values = stage(batch, streams(12))
        assert values["loss"].shape == (12,)
        optimizer.zero_grad()
        values["loss"].mean().backward()
        optimizer.step()
        losses.append(values["loss"].mean().item())
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])
    stage.eval()
    scored = [scores_of(stage.confidence, dataset, place, store) for place in range(3)]
    figures = ranking_figures(scored, resamples=10)
    assert figures["auroc pooled"].value > 0.8
    assert figures["auroc within"].value > 0.8


def scores_of(network: nn.Module, dataset: DockingDataset, place: int, store: PoseStore) -> tuple[Any, Any]:
    each = dataset.complexes[place]
    poses = store.load(each.name)
    assert poses is not None
    places = torch.from_numpy((poses.positions - each.receptor.centre).astype(np.float32))
    with torch.no_grad():
        logits = network(Structure.of([each.graph] * len(places)), places.flatten(0, 1))
    return logits[:, 0].numpy(), poses.rmsd


TRAINING = [
    "train.denoiser.steps=2", "train.denoiser.batch=2", "train.prior.steps=2", "train.prior.batch=2",
    *(f"train.confidence.{setting}" for setting in ("batch=2", "log_every=1", "checkpoint_every=4", "lr=1e-3")),
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(config(*TRAINING, "train.confidence.steps=8"), folder, quiet=True)
    return folder


def test_a_run_trains_all_its_stages(run: Path) -> None:
    assert set(read_manifest(run / "model").weights) == {"denoiser", "encoder", "prior", "confidence"}
    rows = list(read_jsonl(run / "log-confidence.jsonl"))
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert rows[0].keys() >= {"loss", "bce", "pair", "order"}
    pipeline = Pipeline.from_pretrained(run, "cpu")
    assert isinstance(pipeline.networks["confidence"], PoseRanker)
    scores = pipeline.generate(count=3).scores["confidence"]
    assert scores.shape == (3,)
    assert torch.isfinite(scores).all()


def test_a_finished_run_is_left_as_it_is(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    before, poses = read_manifest(run / "model").weights, files(run / "state" / "poses")
    with caplog.at_level(logging.INFO, "disco"):
        train(config(*TRAINING, "train.confidence.steps=8"), run, quiet=True)
    assert read_manifest(run / "model").weights == before
    assert files(run / "state" / "poses") == poses
    assert "starting over" not in caplog.text
    assert caplog.text.count("is finished") == 3


def test_a_run_that_goes_on_is_the_run_in_one_go(run: Path, tmp_path: Path) -> None:
    train(config(*TRAINING, "train.confidence.steps=4"), tmp_path, quiet=True)
    train(config(*TRAINING, "train.confidence.steps=8"), tmp_path, quiet=True)
    assert read_manifest(tmp_path / "model").weights == read_manifest(run / "model").weights
    first, second = (
        [(row["step"], row["loss"]) for row in read_jsonl(folder / "log-confidence.jsonl")]
        for folder in (run, tmp_path)
    )
    assert first == second


def test_the_poses_follow_the_networks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = ["train.confidence.steps=1", "latents.kind=none"]
    train(config(*TRAINING, *settings), tmp_path, quiet=True)
    before = files(tmp_path / "state" / "poses")
    train(config(*TRAINING, *settings, "train.denoiser.steps=4"), tmp_path, quiet=True)
    assert "made anew" in caplog.text
    assert files(tmp_path / "state" / "poses").keys() == before.keys()
    assert files(tmp_path / "state" / "poses") != before


def test_there_is_one_output_for_each_threshold() -> None:
    domain = DockingDomain(config("model.confidence.outputs=1"))
    with pytest.raises(ConfigError, match="one output for each"):
        RankingStage(domain, domain.confidence(), {})


def test_without_settings_of_its_training_a_confidence_model_has_no_stage() -> None:
    domain = DockingDomain(tiny_config("docking"))
    assert domain.stages() == {}
    assert isinstance(domain.confidence(), ConfidenceNet)
    assert list(DockingDomain(config()).stages()) == ["confidence"]


def test_the_all_atom_model_can_be_trained_too(dataset: DockingDataset, store: PoseStore, pipeline: Pipeline) -> None:
    domain = DockingDomain(tiny_config("docking", ["model.ranking.poses=2"]))
    stage = RankingStage(domain, domain.confidence(), {})
    assert isinstance(stage.confidence, ConfidenceNet)
    batch = PoseDataset(dataset, store, settings_of(pipeline)).load([0, 1], [0, 1])
    stage(batch, streams(8))["loss"].mean().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in stage.parameters())


def test_the_backbone_starts_as_that_of_the_denoiser() -> None:
    sizes = ("network=vector", "scalars=16", "vectors=4", "layers=2", "distance_dim=8", "atom_radius=6.0")
    same = [f"model.{part}.{size}" for part in ("denoiser", "confidence") for size in (*sizes, "residue_radius=15.0")]
    domain = DockingDomain(config(*same))
    denoiser, network = domain.denoiser(), domain.confidence()
    taken = take_over(network, denoiser)
    own, others = network.backbone.state_dict(), denoiser.backbone.state_dict()  # type: ignore[union-attr]
    shared = [name for name in own if name in others and own[name].shape == others[name].shape]
    assert taken == len(shared) > 0.9 * len(own)
    for name in shared:
        torch.testing.assert_close(own[name], others[name], rtol=0, atol=0)
    assert take_over(DockingDomain(tiny_config("docking")).confidence(), denoiser) == 0


def test_a_stage_that_goes_on_makes_nothing_again(tmp_path: Path, pipeline: Pipeline) -> None:
    domain = DockingDomain(config())
    trained = {name: net for name, net in pipeline.networks.items() if name != "confidence"}
    stage = RankingStage(domain, domain.confidence(), trained)
    first = stage.prepare(domain.dataset("train"), tmp_path, ALONE)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    again = RankingStage(domain, domain.confidence(), trained)
    second = again.prepare(domain.dataset("train"), tmp_path, ALONE)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")} == before
    assert len(first) == len(second) == len(files(tmp_path / "state" / "poses")) > 0
    assert len(files(tmp_path / "state" / "poses-held-out")) == len(domain.dataset("val")) > 0


# ---- confidence as a probability ------------------------------------------------------------------------------------


def first_logits(network: PoseRanker, dataset: DockingDataset, store: PoseStore) -> list[tuple[str, int, float]]:
    """Name, number of the best-ranked pose, and its logit, of every complex, one pose at a time."""
    found = []
    for each in dataset.complexes:
        poses = store.load(each.name)
        assert poses is not None
        batch = DockingBatch(torch.tensor([0]), (each,), (0,))
        values = [raw(network, poses.pose(k, each), batch).item() for k in range(len(poses.rmsd))]
        found.append((each.name, int(np.argmax(values)), max(values)))
    return found


@torch.no_grad()
def raw(network: PoseRanker, poses: Pose, batch: DockingBatch) -> Tensor:
    return network(batch.structure(torch.float32), poses.flat)[:, 0]


def judged(store: PoseStore, folder: Path, first: Sequence[tuple[str, int, float]], right: Sequence[bool]) -> PoseStore:
    """The same poses, of which the first one of every complex is right as told, and no other."""
    made = PoseStore(folder, {})
    made.open()
    for (name, number, _), good in zip(first, right, strict=True):
        poses = store.load(name)
        assert poses is not None
        rmsd = np.full(len(poses.rmsd), 9.0)
        rmsd[number] = 1.0 if good else 3.0
        made.save(replace(poses, rmsd=rmsd))
    return made


def test_confidence_is_the_logit_of_what_first_poses_are_worth(
    pipeline: Pipeline, dataset: DockingDataset, store: PoseStore, tmp_path: Path
) -> None:
    network = copy.deepcopy(ranker(pipeline)).eval()
    first = first_logits(network, dataset, store)
    logits = np.array([value for _, _, value in first])
    right = logits > np.median(logits)
    assert 0 < right.sum() < len(right)
    calibrate(network, dataset.complexes, judged(store, tmp_path, first, right.tolist()), 2.0)
    a, b = fit_calibration(logits, right)
    assert a > 0
    assert network.calibration.tolist() == pytest.approx([a, b], rel=1e-3)
    batch = PoseDataset(dataset, store, settings_of(pipeline)).load([0], [0]).poses
    torch.testing.assert_close(
        confidences(network, batch.clean, batch),
        network.calibration[0] * raw(network, batch.clean, batch) + network.calibration[1],
    )


def test_a_model_that_ranks_backwards_is_not_calibrated(
    pipeline: Pipeline, dataset: DockingDataset, store: PoseStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = copy.deepcopy(ranker(pipeline)).eval()
    first = first_logits(network, dataset, store)
    middle = np.median([value for _, _, value in first])
    calibrate(
        network, dataset.complexes, judged(store, tmp_path, first, [value < middle for _, _, value in first]), 2.0
    )
    assert network.calibration.tolist() == [1, 0]
    assert "not more often right" in caplog.text
    calibrate(network, [], store, 2.0)
    assert "no poses of held-out complexes" in caplog.text
    assert network.calibration.tolist() == [1, 0]


def test_the_stage_ends_with_the_calibration_of_its_averaged_weights(run: Path) -> None:
    model = Pipeline.from_pretrained(run, "cpu")
    domain, network = model.domain, ranker(model)
    assert isinstance(domain, DockingDomain)
    stored = network.calibration.clone()
    network.calibration.copy_(torch.tensor([1.0, 0.0]))
    calibrate(network, domain.dataset("val").complexes, PoseStore(run / "state" / "poses-held-out", {}), 2.0)
    assert network.calibration.tolist() == stored.tolist()


def test_without_validation_complexes_confidence_stays_as_it_is(
    tmp_path: Path, pipeline: Pipeline, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = DockingDomain(config())
    train_data = domain.dataset("train")

    def no_validation(split: str) -> DockingDataset:
        raise DataError(f"no complex of the split '{split}'")

    monkeypatch.setattr(domain, "dataset", no_validation)
    stage = RankingStage(domain, domain.confidence(), {n: p for n, p in pipeline.networks.items() if n != "confidence"})
    stage.prepare(train_data, tmp_path, ALONE)
    stage.conclude()
    assert "will not be calibrated: no complex of the split 'val'" in caplog.text
    assert ranker(pipeline).calibration.tolist() == [1, 0]


def test_held_out_complexes_are_seen_in_the_pockets_that_disco_dock_keeps(dataset: DockingDataset) -> None:
    pockets = HeldOut(dataset.complexes, 8.0)
    for each, whole in zip(pockets.complexes, dataset.complexes, strict=True):
        truth = whole.ligand.coordinates
        assert truth is not None
        kept = whole.receptor.protein.crop(Around(truth, 8.0))
        np.testing.assert_array_equal(each.receptor.protein.origin, kept.origin)
        atoms = each.graph["atom"].pos.double().numpy() + each.receptor.centre
        np.testing.assert_allclose(atoms, kept.positions, atol=1e-4)
    batch = pockets.load([1, 0, 1], [7, 8, 9])
    assert [batch.complexes[i].name for i in batch.index] == [dataset.complexes[i].name for i in (1, 0, 1)]
    assert batch.ids.tolist() == [7, 8, 9]
    assert HeldOut(dataset.complexes, None).complexes == dataset.complexes


# ---- figures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "good", "value"),
    [
        ([3, 2, 1], [True, False, False], 1.0),
        ([1, 2, 3], [True, False, False], 0.0),
        ([1, 1, 1, 1], [True, False, True, False], 0.5),
        ([2, 2, 1], [True, False, False], 0.75),
        ([4, 3, 2, 1], [True, False, True, False], 0.75),
        ([0.1, 0.1, 0.1, 0.9, 0.9], [True, True, False, True, False], (0.5 + 0 + 0.5 + 0 + 1 + 0.5) / 6),
        ([1, 2], [True, True], math.nan),
    ],
)
def test_the_area_counts_pairs(scores: Sequence[float], good: Sequence[bool], value: float) -> None:
    found = auroc(np.array(scores, float), np.array(good))
    np.testing.assert_allclose(found, value)


def test_figures_of_a_known_ranking() -> None:
    complexes = [
        (np.array([2.0, 1.0, 0.0, -1.0]), np.array([1.0, 3.0, 3.0, np.nan])),
        (np.array([0.0, 1.0, 2.0, 3.0]), np.array([1.0, 1.0, 3.0, 3.0])),
        (np.array([0.0, 0.0]), np.array([9.0, 9.0])),
        (np.array([1.0, 1.0]), np.array([0.5, 9.0])),
    ]
    figures = ranking_figures(complexes, resamples=200)
    values = {name: figure.value for name, figure in figures.items()}
    assert values["auroc within"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert values["random"] == pytest.approx((0.25 + 0.5 + 0 + 0.5) / 4)
    assert values["top-1"] == pytest.approx((1 + 0 + 0 + 0.5) / 4)
    assert values["oracle"] == pytest.approx(3 / 4)
    assert values["lift"] == pytest.approx(values["top-1"] - values["random"])
    assert values["gain"] == pytest.approx((1.5 - 1.25) / (3 - 1.25))
    for figure in figures.values():
        assert figure.low <= figure.value <= figure.high
    with pytest.raises(DataError, match="no complex"):
        ranking_figures([])
