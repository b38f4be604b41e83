"""Binding-site finder: points, features, labels, sites, training."""

import gc
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from benchmarks.docking_sites import read_network
from core.errors import CheckpointError, DataError
from core.rng import SampleStreams
from domains.docking.batch import DockingBatch
from domains.docking.chemistry.ligand import read_ligand
from domains.docking.chemistry.protein import Protein, read_protein
from domains.docking.complex import Complex, Receptor, make_complex
from domains.docking.metrics.calibration import fit_calibration
from domains.docking.sites import finder
from domains.docking.sites.calibration import calibrate
from domains.docking.sites.config import SitesConfig
from domains.docking.sites.features import N_FEATURES, NEIGHBOURS, PointCloud, point_cloud, point_features
from domains.docking.sites.finder import clusters, find_sites, known_sites, logit, point_shares
from domains.docking.sites.labels import ligand_copies, touched
from domains.docking.sites.measures import hit_rates, random_distances, random_hit_rates, site_distances, wilson
from domains.docking.sites.network import RunningScale, SiteNet
from domains.docking.sites.points import PROBE_DISTANCE, SPACING, sphere, surface_points
from domains.docking.sites.training import SitesStage, example, site_losses
from tests.docking_models import save_model
from tests.docking_support import DATA, crystal, places

MEAN_DIRECTION = slice(4 * 22 + 21, 4 * 22 + 21 + 4)  # lengths of the mean directions, by shell


def turned(protein: Protein, seed: int = 0) -> tuple[Protein, np.ndarray, np.ndarray]:
    """The protein in another frame, with the rotation and the shift that lead there."""
    generator = np.random.default_rng(seed)
    rotation = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    shift = 30 * generator.normal(size=3)
    moved = replace(protein, positions=protein.positions @ rotation.T + shift, ca=protein.ca @ rotation.T + shift)
    return moved, rotation, shift


def carbon_atoms(positions: np.ndarray) -> Protein:
    """Glycines that consist of nothing but C-alphas, at given places."""
    _, protein = crystal()
    count = len(positions)
    return replace(
        protein, names=("GLY",) * count, chains=("A",) * count, numbers=tuple(map(str, range(count))),
        letters=("G",) * count, ca=positions, atom_names=("CA",) * count, elements=("C",) * count, positions=positions,
        residue=np.arange(count), origin=np.arange(count),
    )  # fmt: skip


def network(seed: int = 0) -> SiteNet:
    torch.manual_seed(seed)
    net = SiteNet(SitesConfig())
    net.scale.mean.fill_(0.5)
    return net.eval()


@cache
def small_complexes() -> tuple[Complex, ...]:
    folders = [DATA / "complexes" / name for name in ("1bvi", "2p70", "4kxj")]
    return tuple(
        make_complex(
            folder.name,
            Receptor.of(read_protein(folder / "protein.pdb.gz")),
            read_ligand(folder / "ligand.sdf"),
            with_pose=True,
        )
        for folder in folders
    )


def test_points_keep_their_distance_from_the_nearest_atom_and_spread_over_the_surface() -> None:
    _, protein = crystal()
    points = surface_points(protein)
    nearest = np.linalg.norm(points[:, None] - protein.positions, axis=2).min(1)
    np.testing.assert_allclose(nearest, PROBE_DISTANCE, atol=1e-5)
    alone = surface_points(carbon_atoms(np.zeros((1, 3))))
    gaps = np.linalg.norm(sphere(2000)[:, None] * PROBE_DISTANCE - alone, axis=2).min(1)
    assert gaps.max() < 2 * SPACING


def test_points_turn_with_the_protein() -> None:
    _, protein = crystal()
    moved, rotation, shift = turned(protein)
    points, again = surface_points(protein) @ rotation.T + shift, surface_points(moved)
    assert len(points) == len(again)
    np.testing.assert_allclose(again, points, atol=1e-6)


def test_features_of_given_points_are_the_same_in_every_frame() -> None:
    _, protein = crystal()
    points = surface_points(protein)[::7]
    moved, rotation, shift = turned(protein)
    here, there = point_features(protein, points), point_features(moved, points @ rotation.T + shift)
    assert here.shape == (len(points), N_FEATURES)
    np.testing.assert_allclose(here.astype(np.float64), there.astype(np.float64), atol=2e-3)  # float16


def test_a_cavity_is_more_buried_than_the_outside() -> None:
    hollow = carbon_atoms(9.0 * sphere(400))
    cloud = point_cloud(hollow)
    inside = np.linalg.norm(cloud.positions, axis=1) < 9
    one_sided = cloud.features[:, MEAN_DIRECTION].astype(np.float64)
    assert 0 < inside.sum() < len(inside)
    assert one_sided[inside].max(0)[-1] < one_sided[~inside].min(0)[-1]
    centre = point_features(hollow, np.zeros((1, 3)))[0].astype(np.float64)
    np.testing.assert_allclose(centre[MEAN_DIRECTION], 0, atol=1e-2)  # the atoms are all around
    assert centre[MEAN_DIRECTION.stop + 3] == pytest.approx(1 / 3, abs=1e-2)  # tr M^2 of the isotropic M = 1/3


def test_chemical_classes_are_counted_where_they_are() -> None:
    _, protein = crystal()
    only = protein.keep(np.array([name == "ASP" for name in protein.names]) & (np.cumsum(
        [name == "ASP" for name in protein.names]) == 1))  # fmt: skip
    oxygen = only.positions[list(only.atom_names).index("OD1")]
    features = point_features(only, oxygen[None] + 1e-3)[0].astype(np.float64)
    first_shell = np.expm1(features[:22]).round()
    assert first_shell.sum() == (np.linalg.norm(only.positions - oxygen, axis=1) < 4).sum()
    assert first_shell[10] == 2  # both carboxylate oxygens


def test_labels_are_the_points_within_the_radius_and_the_nearest_in_any_case() -> None:
    points = np.array([[0.0, 0, 0], [2.9, 0, 0], [3.1, 0, 0], [0, 9, 0]])
    ligand = np.array([[0.0, 0, 0], [0, 0, 1]])
    assert touched(points, ligand, 3.0).tolist() == [True, True, False, False]
    assert touched(points, ligand + np.array([0, 20, 0]), 3.0).tolist() == [False, False, False, True]


def test_the_ligand_has_an_image_in_every_copy_of_its_chain() -> None:
    ligand, protein = crystal()
    moved, rotation, shift = turned(protein)
    doubled = ("names", "numbers", "letters", "atom_names", "elements")
    both = replace(
        protein,
        **{name: getattr(protein, name) * 2 for name in doubled},
        chains=("A",) * protein.n_residues + ("B",) * protein.n_residues,
        ca=np.concatenate([protein.ca, moved.ca + 100]),
        positions=np.concatenate([protein.positions, moved.positions + 100]),
        residue=np.concatenate([protein.residue, protein.residue + protein.n_residues]),
        origin=np.arange(2 * protein.n_residues),
    )
    images = ligand_copies(both, places(ligand))
    assert len(images) == 2
    np.testing.assert_allclose(images[1], places(ligand) @ rotation.T + shift + 100, atol=1e-6)
    assert len(ligand_copies(protein, places(ligand))) == 1


def test_losses_of_an_undecided_network_are_those_of_chance() -> None:
    own = torch.tensor([True, False, False, False, False])
    choice, touch = site_losses(torch.zeros(5, 2), own, own)
    assert float(choice) == pytest.approx(np.log(5))
    assert float(touch) == pytest.approx(np.log(2))
    sure = torch.tensor([[50.0, 50.0]] + [[-50.0, -50.0]] * 4)
    assert max(map(float, site_losses(sure, own, own))) < 1e-6


def test_sites_are_the_densest_balls_apart_from_each_other() -> None:
    generator = np.random.default_rng(0)
    points = np.concatenate([at + generator.normal(size=(20, 3)) for at in ([0, 0, 0], [20, 0, 0], [40.0, 0, 0])])
    share = np.repeat([0.3, 0.5, 0.2], 20) / 20
    found = clusters(points, share, 5, SitesConfig())
    assert [set(members // 20) for members in found[:3]] == [{1}, {0}, {2}]
    centres = [points[members].mean(0) for members in found]
    gaps = [np.linalg.norm(a - b) for i, a in enumerate(centres) for b in centres[:i]]
    assert min(gaps) >= SitesConfig().separation - 1


def test_found_sites_turn_with_the_protein_and_come_out_the_same_twice() -> None:
    _, protein = crystal()
    net = network()
    sites, again = find_sites(net, protein, 3), find_sites(net, protein, 3)
    moved, rotation, shift = turned(protein)
    there = find_sites(net, moved, 3)
    for one, same, other in zip(sites, again, there, strict=True):
        np.testing.assert_array_equal(one.centre, same.centre)
        np.testing.assert_allclose(other.centre, one.centre @ rotation.T + shift, atol=0.5)
        assert other.score == pytest.approx(one.score, rel=0.05)
    scores = [site.score for site in sites]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) <= 1
    assert all(site.residues and 0 < site.probability < 1 for site in sites)


def small_protein(residues: int = 20) -> Protein:
    _, protein = crystal()
    return protein.keep(np.arange(protein.n_residues) < residues)


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[Protein]:
    """The proteins that are searched for sites."""
    seen: list[Protein] = []
    search: Callable[..., Any] = finder.find_sites

    def watched(network: SiteNet, protein: Protein, count: int) -> Any:
        seen.append(protein)
        return search(network, protein, count)

    monkeypatch.setattr(finder, "find_sites", watched)
    return seen


def test_a_protein_is_searched_once_per_network_and_number_of_sites(searches: list[Protein]) -> None:
    one, other, net = small_protein(), small_protein(), network()
    first = known_sites(net, one, 2)
    assert known_sites(net, one, 2) is first
    assert searches == [one]
    assert len(known_sites(net, one, 1)) == 1
    assert known_sites(net, other, 2)[0].score == first[0].score
    assert known_sites(network(1), one, 2)[0].score != first[0].score
    assert searches == [one, one, other, one]


def test_new_weights_give_new_sites(searches: list[Protein]) -> None:
    protein, net = small_protein(), network()
    first = known_sites(net, protein, 2)
    net.load_state_dict(network(1).state_dict())
    assert known_sites(net, protein, 2)[0].score == known_sites(network(1), protein, 2)[0].score != first[0].score
    before = known_sites(net, protein, 2)[0].probability
    calibrate(net, [(protein, protein.positions[:1])])
    assert known_sites(net, protein, 2)[0].probability != before


def test_known_sites_keep_neither_protein_nor_network() -> None:
    protein, net = small_protein(), network()
    known_sites(net, protein, 1)
    alive = [ref(protein), ref(net)]
    del protein
    gc.collect()
    assert [each() is None for each in alive] == [True, False]
    del net
    gc.collect()
    assert [each() is None for each in alive] == [True, True]


@pytest.mark.parametrize("residues", [1, 2, 5])
def test_the_smallest_proteins_have_a_site(residues: int) -> None:
    _, protein = crystal()
    tiny = protein.keep(np.arange(protein.n_residues) < residues)
    sites = find_sites(network(), tiny, 5)
    assert sites
    assert all(np.isfinite(site.centre).all() for site in sites)


def test_a_lone_point_is_its_own_neighbour() -> None:
    cloud = point_cloud(crystal()[1], np.zeros((1, 3)))
    assert cloud.neighbours.tolist() == [[0] * NEIGHBOURS]


def test_the_running_scale_ends_at_mean_zero_and_variance_one() -> None:
    torch.manual_seed(0)
    scale, data = RunningScale(3), 5 + 2 * torch.randn(400, 3)
    for part in data.split(100):
        scale(part)
    torch.testing.assert_close(scale.mean, data.mean(0))
    scale.eval()
    torch.testing.assert_close(scale(data).mean(0), torch.zeros(3), atol=1e-2, rtol=0)


def test_the_state_dict_holds_all_that_the_predictions_need() -> None:
    _, protein = crystal()
    net, other = network(0), network(1)
    other.load_state_dict(load(save(net.state_dict())))
    for one, same in zip(find_sites(net, protein, 3), find_sites(other, protein, 3), strict=True):
        np.testing.assert_array_equal(one.centre, same.centre)
        assert one.probability == same.probability


def test_shares_of_all_points_add_up_to_one_and_leave_the_mode_alone() -> None:
    cloud: PointCloud = point_cloud(crystal()[1])
    net = network().train()
    shares = point_shares(net, cloud)
    assert shares.sum() == pytest.approx(1)
    assert net.training


def test_the_stage_learns_where_the_ligands_are() -> None:
    torch.manual_seed(0)
    stage = SitesStage(SitesConfig(dropout=0.0), list)
    batch = DockingBatch(torch.arange(4), small_complexes(), (0, 1, 2, 1))
    optimiser = torch.optim.Adam(stage.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        values = stage(batch, SampleStreams(0, batch.ids, "train/sites"))
        assert values["loss"].shape == (4,)
        optimiser.zero_grad()
        values["loss"].mean().backward()
        optimiser.step()
        losses.append(float(values["loss"].detach().mean()))
    assert losses[-1] < 0.6 * losses[0]
    assert set(stage.parts()) == {"sites"}
    for whole in small_complexes():
        ligand = whole.ligand.coordinates
        assert ligand is not None
        rates = hit_rates(
            [site_distances(find_sites(stage.sites, whole.receptor.whole, 1), whole.receptor.whole, ligand)]
        )
        assert rates["DCA4 top-1"].tolist() == [1.0]


def test_the_stage_ends_with_calibrated_probabilities(caplog: pytest.LogCaptureFixture) -> None:
    held_out = small_complexes()
    torch.manual_seed(0)
    stage = SitesStage(SitesConfig(width=8, rounds=1), lambda: held_out)
    stage.conclude()
    by_hand = SitesStage(SitesConfig(width=8, rounds=1), list).sites
    by_hand.load_state_dict(stage.sites.state_dict())
    pairs = [(each.receptor.whole, each.ligand.coordinates) for each in held_out]
    calibrate(by_hand, [(protein, ligand) for protein, ligand in pairs if ligand is not None])
    torch.testing.assert_close(stage.sites.calibration, by_hand.calibration, rtol=0, atol=0)
    assert stage.sites.calibration.tolist() != SiteNet(SitesConfig()).calibration.tolist()

    def nothing() -> list[Complex]:
        raise DataError("no complex of the split 'val'")

    left = SitesStage(SitesConfig(width=8, rounds=1), nothing)
    left.conclude()
    assert left.sites.calibration.tolist() == SiteNet(SitesConfig()).calibration.tolist()
    assert "not calibrated: no complex of the split 'val'" in caplog.text


def test_examples_are_of_the_whole_protein_and_of_a_true_pose() -> None:
    whole = small_complexes()[0]
    made = example(whole, SitesConfig())
    assert len(made.features) == len(surface_points(whole.receptor.whole))
    assert bool((made.any_copy | ~made.own).all())
    with pytest.raises(ValueError, match="true pose"):
        example(replace(whole, ligand=replace(whole.ligand, coordinates=None)), SitesConfig())


def test_measures() -> None:
    ligand, protein = crystal()
    chance = random_hit_rates([random_distances(protein, places(ligand))])
    assert 0 < chance["DCA4 top-1"][0] < chance["DCA4 top-5"][0] < 1
    low, high = wilson(np.array([1.0] * 5 + [0.0] * 5))
    assert (low, high) == pytest.approx((0.2366, 0.7634), abs=1e-4)  # known values for 5 of 10


def test_calibration_finds_the_line_that_the_hits_were_drawn_from() -> None:
    generator = np.random.default_rng(0)
    scores = generator.uniform(0.01, 0.99, 20000)
    logits = logit(scores)
    chance = 1 / (1 + np.exp(-(0.7 * logits - 0.5)))
    a, b = fit_calibration(logits, generator.uniform(size=len(scores)) < chance)
    assert (a, b) == pytest.approx((0.7, -0.5), abs=0.06)
    with pytest.raises(ValueError, match="nothing to calibrate"):
        fit_calibration(np.array([]), np.array([], dtype=bool))


def test_calibrating_changes_probabilities_only() -> None:
    ligand, protein = crystal()
    net = network()
    before = find_sites(net, protein, 2)
    calibrate(net, [(protein, places(ligand))])
    after = find_sites(net, protein, 2)
    assert [site.score for site in after] == [site.score for site in before]
    assert [site.probability for site in after] != [site.probability for site in before]


def test_the_benchmark_takes_the_finder_of_the_manifest(tmp_path: Path) -> None:
    settings = ("model.sites.width=8", "model.sites.rounds=1", "model.sites.site_radius=6.0")
    read = read_network(save_model(tmp_path / "model", overrides=settings, parts=("sites",)))
    assert (read.config.width, read.config.rounds, read.config.site_radius) == (8, 1, 6.0)
    weights = load((tmp_path / "model" / "sites.safetensors").read_bytes())
    assert all(torch.equal(value, weights[name]) for name, value in read.state_dict().items())
    assert not read.training
    with pytest.raises(CheckpointError, match="has no site finder"):
        read_network(save_model(tmp_path / "other", parts=("denoiser",)))
