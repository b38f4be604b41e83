"""Random crops for training, and blind docking into the surroundings of predicted sites."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from core.errors import RequestError
from core.pipeline import Pipeline
from domains.docking import regions as regions_module
from domains.docking.chemistry.pocket import Around, Sphere
from domains.docking.complex import Complex, Receptor, make_complex
from domains.docking.config import CropConfig, QuirksConfig
from domains.docking.crops import cut, random_crop, surroundings
from domains.docking.dock.result import DockingResult
from domains.docking.graph import ATOM_NEAR, NEAR
from domains.docking.pipeline import DockingPipeline
from domains.docking.regions import DockedSite, allotted, ranked_together, regions, whole_code
from domains.docking.request import DockingRequest
from domains.docking.sites import finder as finder_module
from domains.docking.sites.config import SitesConfig
from domains.docking.sites.network import SiteNet
from tests.docking_models import LIGANDS, protein, save_model, site
from tests.docking_support import crystal


@pytest.fixture(scope="module")
def whole() -> Complex:
    """6W70 with its true pose."""
    ligand, protein = crystal()
    return make_complex("6w70", Receptor.of(protein), ligand, with_pose=True)


@pytest.fixture(scope="module")
def finder() -> SiteNet:
    torch.manual_seed(0)
    return SiteNet(SitesConfig())


def in_file(each: Complex, kind: str) -> np.ndarray:
    """Positions of the graph's nodes in the frame of the file."""
    return each.graph[kind].pos.double().numpy() + each.receptor.centre


def test_a_crop_follows_from_its_number_alone(whole: Complex) -> None:
    config = CropConfig()
    first, again, other = (random_crop(whole, config, number) for number in (7, 7, 8))
    assert torch.equal(first.graph["atom"].pos, again.graph["atom"].pos)
    assert first.receptor.protein.n_residues < whole.receptor.protein.n_residues
    assert not np.array_equal(first.receptor.protein.origin, other.receptor.protein.origin)


def test_a_crop_without_noise_is_a_piece_of_the_whole(whole: Complex) -> None:
    crop = random_crop(whole, CropConfig(jitter=0.0, shift=0.0, margin=(8.0, 8.0)), 3)
    truth = whole.ligand.coordinates
    assert truth is not None
    near = whole.receptor.protein.crop(Around(truth, 8.0))
    np.testing.assert_array_equal(crop.receptor.protein.origin, near.origin)
    np.testing.assert_allclose(in_file(crop, "receptor"), near.ca, atol=1e-4)
    np.testing.assert_allclose(in_file(crop, "atom"), near.positions, atol=1e-4)
    places = crop.graph["ligand"].crystal.double().numpy() + crop.receptor.centre
    np.testing.assert_allclose(places, truth, atol=1e-4)
    matched = crop.graph["ligand"].matched.double().numpy() + crop.receptor.centre
    before = whole.graph["ligand"].matched.double().numpy() + whole.receptor.centre
    np.testing.assert_allclose(matched, before, atol=1e-4)
    assert crop.graph[ATOM_NEAR].edge_index.max() < near.n_atoms
    assert crop.graph[NEAR].edge_index.max() < near.n_residues


def test_edges_between_atoms_join_the_atoms_that_they_joined(whole: Complex) -> None:
    crop = random_crop(whole, CropConfig(jitter=0.0), 4)
    kept = np.isin(whole.receptor.protein.residue, crop.receptor.protein.origin)
    number = np.flatnonzero(kept)
    of_whole = {tuple(edge) for edge in whole.graph[ATOM_NEAR].edge_index.T.tolist() if kept[edge].all()}
    assert {tuple(edge) for edge in number[crop.graph[ATOM_NEAR].edge_index.numpy()].T.tolist()} == of_whole


def test_jitter_has_the_width_asked_for(whole: Complex) -> None:
    config = CropConfig(jitter=0.2, shift=0.0)
    still, moved = (random_crop(whole, config.model_copy(update={"jitter": j}), 5) for j in (0.0, 0.2))
    change = (moved.graph["atom"].pos - still.graph["atom"].pos).numpy()
    assert change.std() == pytest.approx(0.2, rel=0.05)
    assert torch.equal(moved.graph["receptor"].pos, still.graph["receptor"].pos)


def test_some_samples_see_all_of_the_protein(whole: Complex) -> None:
    config = CropConfig(whole=0.5)
    sizes = [random_crop(whole, config, n).receptor.protein.n_residues for n in range(40)]
    full = sum(size == whole.receptor.protein.n_residues for size in sizes)
    assert 10 <= full <= 30  # 20 expected, three standard deviations


def test_what_crops_reach_gives_the_same_crops(whole: Complex) -> None:
    config = CropConfig(jitter=0.0)
    near = surroundings(whole, config)
    for number in range(10):
        a, b = random_crop(whole, config, number), random_crop(near, config, number)
        np.testing.assert_array_equal(a.receptor.protein.origin, b.receptor.protein.origin)


def test_a_complex_without_its_pose_cannot_be_cropped_at_random(whole: Complex) -> None:
    blind = replace(whole, ligand=replace(whole.ligand, coordinates=None))
    with pytest.raises(ValueError, match="true pose is not known"):
        random_crop(blind, CropConfig(), 0)


def test_a_crop_around_a_pose_is_there_even_where_the_pose_is_in_the_void(whole: Complex) -> None:
    truth, config = whole.ligand.coordinates, CropConfig(jitter=0.0, margin=(5.0, 7.0))
    assert truth is not None
    for shift in (0.0, 12.0, 400.0):
        pose = truth + np.array([shift, 0.0, 0.0])
        kept = random_crop(whole, config, 3, pose).receptor.protein
        nearest = cKDTree(pose).query(whole.receptor.protein.positions)[0].min()
        assert kept.n_residues >= 1
        assert cKDTree(pose).query(kept.positions)[0].min() == pytest.approx(nearest, abs=1e-6)


def test_a_cut_into_the_void_is_an_error(whole: Complex) -> None:
    with pytest.raises(RequestError, match="no atom of the protein"):
        cut(whole, Sphere((500.0, 0.0, 0.0), 5.0))


@pytest.mark.parametrize(
    ("scores", "samples", "expected"),
    [([1.0], 10, [10]), ([0.25, 0.25], 10, [5, 5]), ([0.64, 0.04], 10, [8, 2]), ([0.9, 0.1, 0.1], 1, [1, 0, 0])],
)
def test_samples_are_shared_by_the_roots_of_the_scores(scores: list[float], samples: int, expected: list[int]) -> None:
    assert list(allotted(np.array(scores), samples)) == expected


def test_every_sample_has_one_region(whole: Complex, finder: SiteNet) -> None:
    every = regions(whole, finder, 10, 3, 8.0)
    assert [place.first for place in every[1:]] == [place.last for place in every[:-1]]
    assert (every[0].first, every[-1].last) == (0, 10)
    for place in every:
        assert place.site is not None
        centre = np.array(place.site.centre)
        assert np.linalg.norm(in_file(place.complex, "atom") - centre, axis=1).min() < 8.0
        assert place.complex.receptor.whole.n_residues == whole.receptor.protein.n_residues
    assert [place.site.rank for place in every if place.site] == sorted(p.site.rank for p in every if p.site)


def test_a_pocket_that_was_given_is_left_alone(whole: Complex, finder: SiteNet) -> None:
    truth = whole.ligand.coordinates
    assert truth is not None
    pocket = cut(whole, Around(truth, 8.0))
    (only,) = regions(pocket, finder, 10, 3, 8.0)
    assert only.complex is pocket
    assert only.site is None
    (blind,) = regions(whole, None, 10, 3, 8.0)
    assert blind.complex is whole


def test_latents_of_a_region_name_nodes_of_the_whole(whole: Complex, finder: SiteNet) -> None:
    region = regions(whole, finder, 4, 1, 8.0)[0].complex
    for node in range(region.nodes):
        assert region.node_name(node) == whole.node_name(whole_code(node, region))


def test_confidence_in_a_site_is_a_sum_of_log_odds() -> None:
    confidence, likely = np.array([0.0, 2.0, -3.0, 1.0]), np.array([0.5, 0.9, 0.2, 1.0])
    odds = np.array([0.0, np.log(9.0), np.log(0.25), np.log(999.0)])  # never quite certain of a site
    sites = [DockedSite(1, chance, (0.0, 0.0, 0.0)) for chance in likely.tolist()]
    np.testing.assert_allclose(ranked_together(confidence, sites, 0.4), confidence + 0.4 * odds, rtol=1e-12)
    np.testing.assert_allclose(ranked_together(confidence, sites, 0.0), confidence, rtol=0)
    for unknown in ((), (*sites[:3], None)):
        np.testing.assert_allclose(ranked_together(confidence, unknown, 0.4), confidence, rtol=0)


def test_a_library_is_docked_into_sites_that_were_looked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "library.smi").write_text("".join(f"{LIGANDS[name]} {name}\n" for name in ("ring", "chain")))
    pipeline = Pipeline.from_pretrained(save_model(tmp_path / "model", overrides=["model.sites.width=8"]), "cpu")
    assert isinstance(pipeline, DockingPipeline)
    searches, search = [], finder_module.find_sites

    def watched(*asked: Any) -> Any:
        searches.append(asked)
        return search(*asked)

    def docked() -> list[DockingResult]:
        found = list(pipeline.dock_each(protein("1bvi"), tmp_path / "library.smi", poses=3))
        return [each for each in found if isinstance(each, DockingResult)]

    monkeypatch.setattr(finder_module, "find_sites", watched)
    kept = docked()
    assert (len(kept), len(searches)) == (2, 1)
    monkeypatch.setattr(regions_module, "known_sites", watched)
    fresh = docked()
    assert len(searches) == 1 + 2
    for one, other in zip(kept, fresh, strict=True):
        assert [pose.site for pose in one.poses] == [pose.site for pose in other.poses]
        assert [pose.confidence for pose in one.poses] == [pose.confidence for pose in other.poses]
        for pose, same in zip(one.poses, other.poses, strict=True):
            np.testing.assert_array_equal(pose.positions, same.positions)


def test_a_request_for_a_whole_protein_says_who_finds_sites(caplog: pytest.LogCaptureFixture) -> None:
    asked = {"protein": protein("1bvi"), "ligand": "CCO"}
    with caplog.at_level(logging.WARNING, "disco"):
        DockingRequest.parse(asked).complexes(QuirksConfig())
        DockingRequest.parse({**asked, **site("1bvi")}).complexes(QuirksConfig(), finder=True)
        assert not caplog.records
        DockingRequest.parse(asked).complexes(QuirksConfig(), finder=True)
    assert "use disco dock" in caplog.text
