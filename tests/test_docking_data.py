"""Complexes from the layouts of the field, the cache of prepared ones, what is reported, and what receptors share."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from core.errors import DataError
from domains.docking.chemistry.features import ligand_features
from domains.docking.config import DataConfig
from domains.docking.data import processes
from domains.docking.data.dataset import DockingDataset
from domains.docking.data.prepare import Preparation, prepared_complexes
from domains.docking.data.processes import DIED, in_processes
from domains.docking.data.sequences import clusters, identity, nearest, quick_sequences, same_chains
from domains.docking.data.sources import Source, chosen, find_sources
from domains.docking.data.store import Cache, Prepared, decode, encode
from tests.support import DOCKING_DATA, ROOT

COMPLEXES = DOCKING_DATA / "complexes"
NAMES = ("1bvi", "2p70", "4kxj")


def source(name: str) -> Source:
    return Source(name, COMPLEXES / name / "protein.pdb.gz", (COMPLEXES / name / "ligand.sdf",))


def copies(folder: Path, *names: str) -> Path:
    """Complexes of these names, all of them copies of the smallest one."""
    for name in names:
        shutil.copytree(COMPLEXES / "2p70", folder / name)
    return folder


def config(folder: Path, **more: object) -> DataConfig:
    return DataConfig.model_validate({"folder": str(folder), "workers": 0, **more})


# ---- layouts --------------------------------------------------------------------------------------------------------


def test_the_layouts_of_pdbbind_and_posebusters_are_found(tmp_path: Path) -> None:
    for files in (
        ("1abc/1abc_protein_processed.pdb", "1abc/1abc_protein.pdb", "1abc/1abc_ligand.sdf", "1abc/1abc_ligand.mol2"),
        ("7XYZ_LIG/7XYZ_LIG_protein.pdb", "7XYZ_LIG/7XYZ_LIG_ligand.sdf", "7XYZ_LIG/7XYZ_LIG_ligands.sdf",
         "7XYZ_LIG/7XYZ_LIG_ligand_start_conf.sdf"),
        ("plain/protein.cif", "plain/ligand.mol2"),
    ):  # fmt: skip
        for file in files:
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).touch()
    found = {each.name: (each.protein.name, [p.name for p in each.ligands]) for each in find_sources(str(tmp_path))}
    assert found == {
        "1abc": ("1abc_protein_processed.pdb", ["1abc_ligand.sdf", "1abc_ligand.mol2"]),
        "7XYZ_LIG": ("7XYZ_LIG_protein.pdb", ["7XYZ_LIG_ligand.sdf"]),
        "plain": ("protein.cif", ["ligand.mol2"]),
    }


def test_binding_moad_needs_smiles_for_its_bond_orders(tmp_path: Path) -> None:
    from rdkit import Chem

    (tmp_path / "pdb_protein").mkdir()
    (tmp_path / "pdb_superligand").mkdir()
    shutil.copy(COMPLEXES / "2p70" / "protein.pdb.gz", tmp_path / "pdb_protein" / "2p70_1_protein.pdb")
    mol = Chem.MolFromMolFile(str(COMPLEXES / "2p70" / "ligand.sdf"))
    for name in ("2p70_1_LIG_0", "9zzz_1_LIG_0"):
        Chem.MolToPDBFile(mol, str(tmp_path / "pdb_superligand" / f"{name}.pdb"))
    (table := tmp_path / "t.csv").write_text(f"id,split,smiles\n2p70_1_LIG_0,train,{Chem.MolToSmiles(mol)}\n")
    bare, orphan = find_sources(str(tmp_path))
    told = find_sources(str(tmp_path), str(table))[0]
    assert "no such file" in orphan.problem
    results = [result for _, result, _ in prepared_complexes([bare, told], Preparation(), Cache(""), 0)]
    assert "no bond orders" in str(results[0])
    assert isinstance(results[1], Prepared)
    assert results[1].complex.ligand.smiles == Chem.MolToSmiles(mol)


def test_a_table_of_files_needs_no_folder(tmp_path: Path) -> None:
    copies(tmp_path, "somewhere")
    (table := tmp_path / "t.csv").write_text(
        "complex_name,protein_path,ligand_path,split\n"
        "one,somewhere/protein.pdb.gz,somewhere/ligand.sdf,train\ntwo,somewhere/protein.pdb.gz,CCO,train\n"
    )
    data = DockingDataset(DataConfig(table=str(table), cache="", workers=0), "train")
    assert [each.name for each in data.complexes] == ["one"]
    assert "a SMILES is not enough" in data.left_out["two"]


def test_the_lists_of_the_paper_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (lists := tmp_path / "lists").mkdir()
    (lists / "timesplit_no_lig_overlap_train").write_text("1bvi\r\n4kxj\r\nnowhere\r\n")
    (lists / "timesplit_test").write_text("2p70\n")
    (lists / "timesplit_test_no_rec_overlap").write_text("2p70\n")
    found = find_sources(str(COMPLEXES), splits=str(lists))
    assert {each.name: (each.split, each.unseen) for each in found if not each.absent} == {
        "1bvi": ("train", False), "4kxj": ("train", False), "2p70": ("test", True),
    }  # fmt: skip
    assert [each.name for each in chosen(found, "train", "")] == ["1bvi", "4kxj"]
    assert "nowhere" in caplog.text
    with pytest.raises(DataError, match=r"no split 'val'; its splits: test \(1\), train \(3\)"):
        chosen(found, "val", "lists")
    (lists / "val.txt").write_text("2p70\n")
    with pytest.raises(DataError, match=r"'2p70' is in test and in val"):
        find_sources(str(COMPLEXES), splits=str(lists))


def test_a_complex_listed_twice_counts_once_or_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (table := tmp_path / "t.csv").write_text("id,split\n1bvi,train\n1bvi,train\n2p70,train\n")
    assert len(chosen(find_sources(str(COMPLEXES), str(table)), "train", "")) == 2
    assert "line 3: '1bvi' comes twice" in caplog.text
    table.write_text("id,split\n1bvi,train\n2p70,val\n1bvi,test\n")
    with pytest.raises(DataError, match="line 4: '1bvi' was in an earlier line"):
        find_sources(str(COMPLEXES), str(table))


# ---- the cache ------------------------------------------------------------------------------------------------------


def assert_equal(one: Prepared, other: Prepared) -> None:
    first, second = one.complex, other.complex
    a, b = first.graph.to_dict(), second.graph.to_dict()
    assert list(a) == list(b)
    for part in (key for key in a if isinstance(a[key], dict)):
        assert list(a[part]) == list(b[part])
        assert all(torch.equal(a[part][name], b[part][name]) for name in a[part])
        assert all(a[part][name].dtype == b[part][name].dtype for name in a[part])
    for arrays, others in (
        (first.receptor.residues, second.receptor.residues), (first.receptor.atoms, second.receptor.atoms),
        *[({f.name: getattr(p, f.name) for f in fields(p)}, {f.name: getattr(q, f.name) for f in fields(q)})
          for p, q in [(first.receptor.protein, second.receptor.protein)]],
    ):  # fmt: skip
        assert list(arrays) == list(others)
        assert all(np.array_equal(arrays[name], others[name]) for name in arrays)
        assert all(np.asarray(arrays[name]).dtype == np.asarray(others[name]).dtype for name in arrays)
    assert np.array_equal(first.receptor.centre, second.receptor.centre)
    ligand, same = first.ligand, second.ligand
    assert (ligand.name, ligand.smiles, ligand.notes) == (same.name, same.smiles, same.notes)
    assert ligand.coordinates is not None
    assert same.coordinates is not None
    assert np.array_equal(ligand.coordinates, same.coordinates)
    assert np.array_equal(ligand_features(ligand.mol), ligand_features(same.mol))
    places = [each.mol.GetConformer().GetPositions() for each in (ligand, same)]
    assert np.array_equal(*places)
    assert len(one.conformers) == len(other.conformers)
    assert all(torch.equal(p, q) for p, q in zip(one.conformers, other.conformers, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_kept_complex_is_equal_bit_by_bit(name: str) -> None:
    fresh = Preparation(conformers=2).prepare(source(name))
    assert_equal(fresh, decode(encode(fresh)))


def test_what_is_prepared_once_is_taken_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(COMPLEXES, cache=str(tmp_path / "cache"))
    first = DockingDataset(settings, "all")
    monkeypatch.setattr(Preparation, "prepare", lambda *_: pytest.fail("prepared again"))
    again = DockingDataset(settings, "all")
    assert [each.name for each in again.complexes] == list(NAMES)
    assert again.content_hash == first.content_hash


def test_the_key_is_of_contents_and_settings(tmp_path: Path) -> None:
    folder = copies(tmp_path, "a")
    (before,) = find_sources(str(folder))
    key = Preparation().key(before)
    assert Preparation(conformers=2).key(before) != key
    assert Preparation(raw_chirality=True).key(before) != key
    ligand = folder / "a" / "ligand.sdf"
    ligand.write_text(ligand.read_text().replace("RDKit", "rdkit"))
    assert Preparation().key(before) != key


@pytest.mark.parametrize("damage", [lambda data: data[:-5], lambda data: data[:50] + b"?" + data[51:], lambda _: b""])
def test_a_damaged_file_is_noticed_and_made_again(
    damage: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    settings = config(copies(tmp_path / "data", "only"), cache=str(tmp_path / "cache"))
    fresh = DockingDataset(settings, "all")
    (kept,) = (path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    right = kept.read_bytes()
    kept.write_bytes(damage(right))  # type: ignore[operator]
    again = DockingDataset(settings, "all")
    assert "is damaged: the complex is prepared again" in caplog.text
    assert kept.read_bytes() == right
    assert torch.equal(fresh.complexes[0].graph["ligand"].matched, again.complexes[0].graph["ligand"].matched)


def test_a_cache_that_cannot_be_written_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (blocked := tmp_path / "file").touch()
    data = DockingDataset(config(copies(tmp_path / "data", "a", "b"), cache=str(blocked)), "all")
    assert len(data) == 2
    assert caplog.text.count("going on without a cache") == 1


def test_a_full_disk_costs_the_cache_only(tmp_path: Path) -> None:
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from pathlib import Path\nfrom domains.docking.config import DataConfig\n"
        "from domains.docking.data import DockingDataset\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"print(len(DockingDataset(DataConfig(folder={str(COMPLEXES)!r}, cache={str(tmp_path)!r}, workers=0), 'all')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["3"]
    assert "going on without a cache" in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_killed_preparation_goes_on_where_it_stopped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, kept = copies(tmp_path / "data", *(f"c{i}" for i in range(15))), tmp_path / "cache"
    code = (
        "from domains.docking.config import DataConfig\nfrom domains.docking.data import DockingDataset\n"
        f"DockingDataset(DataConfig(folder={str(folder)!r}, cache={str(kept)!r}, workers=0), 'all')"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as process:
        while process.poll() is None and len(list(kept.rglob("??/*"))) < 3:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    whole = [path for path in kept.rglob("??/*") if not path.name.endswith(".tmp")]
    assert 0 < len(whole) < 15
    caplog.set_level("INFO")
    assert len(DockingDataset(config(folder, cache=str(kept)), "all")) == 15
    assert f"{15 - len(whole)} of 15 complexes are not in the cache" in caplog.text


# ---- processes ------------------------------------------------------------------------------------------------------


class Sum:
    """A task that says its number, or kills its process."""

    def __init__(self, number: int, deadly: bool = False) -> None:
        self.number, self.deadly = number, deadly

    def run(self) -> tuple[bytes | str, str]:
        if self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return str(self.number).encode(), ""


def test_a_task_that_kills_its_process_is_the_only_one_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "WORTH", 1)
    monkeypatch.setattr(processes, "AHEAD", 1)
    outcomes = {task.number: outcome for task, outcome in in_processes([Sum(i, i == 1) for i in range(4)], 1)}
    assert outcomes == {0: (b"0", ""), 1: (DIED, ""), 2: (b"2", ""), 3: (b"3", "")}


def test_processes_prepare_what_this_one_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "WORTH", 1)
    here, there = (
        {each.name: result for each, result, _ in prepared_complexes([source("2p70")], Preparation(), Cache(where), n)}
        for where, n in (("", 0), (str(tmp_path), 1))
    )
    first, second = here["2p70"], there["2p70"]
    assert isinstance(first, Prepared)
    assert isinstance(second, Prepared)
    assert_equal(first, second)
    assert Cache(str(tmp_path)).load(Preparation().key(source("2p70"))) is not None


# ---- conformers -----------------------------------------------------------------------------------------------------


def test_more_conformers_lie_on_the_true_pose_and_samples_see_all_of_them() -> None:
    one = DockingDataset(config(COMPLEXES, cache=""), "all", limit=1)
    several = DockingDataset(config(COMPLEXES, cache="", conformers=3), "all", limit=1)
    first = several.conformers[0]
    crystal = several.complexes[0].graph["ligand"].crystal
    assert torch.equal(first[0], one.conformers[0][0])
    assert torch.equal(first[0], several.complexes[0].graph["ligand"].matched)
    assert len({tuple(each.flatten().tolist()) for each in first}) == 3
    assert all(float((each - crystal).square().sum(1).mean().sqrt()) < 1.5 for each in first)
    batch = several.load([0] * 30, range(30))
    seen = [next(k for k in range(3) if torch.equal(pose, first[k])) for pose in batch.clean.positions]
    assert set(seen) == {0, 1, 2}
    assert torch.equal(several.load([0], [7]).clean.positions[0], batch.clean.positions[7])


# ---- what receptors share -------------------------------------------------------------------------------------------

ONE = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVKALPDAQFEVVHSLAKWKR"
OTHER = "GSHMWPNDCEYHKTLMRVGAFIPCWDNQETYSHLKRMVGIFAPNDWCETQYHSLKMRVIGFAPDNCWETYQHSLMKRIVG"


def test_identity_is_over_columns_of_a_long_enough_alignment() -> None:
    assert identity(ONE, ONE) == 1
    changed = "".join("W" if i % 5 == 2 else code for i, code in enumerate(ONE))  # W is nowhere at these places
    same = sum(a == b for a, b in zip(ONE, changed, strict=True))
    assert identity(ONE, changed) == pytest.approx(same / len(ONE), abs=0.03)
    gapped = ONE[:40] + "GG" + ONE[40:]
    assert identity(ONE, gapped) == pytest.approx(len(ONE) / len(gapped))
    assert identity(ONE[:30] + "W" * 50, ONE[:30] + "P" * 50) == 0  # 30 of 80 residues align
    assert identity(ONE, OTHER) == 0


def test_the_nearest_chain_and_the_clusters() -> None:
    near = ONE[:10] + "WWWWW" + ONE[15:]
    trained = {"x": [OTHER], "y": ["GGG", ONE]}
    found = dict(nearest({"t": ["GGG", near], "u": ["GGG"]}, trained))
    assert (found["t"].name, found["u"].name) == ("y", "")
    assert 0.9 < found["t"].identity < 1
    groups = clusters({**trained, "t": [near], "both": [ONE], "alone": ["GGG"], "bare": ["GGG"]})
    assert groups["y"] == groups["t"] == groups["both"]
    assert len(set(groups.values())) == 4
    tied = clusters({"x": [OTHER], "y": [ONE], "xy": [OTHER, near]})
    assert len(set(tied.values())) == 1


def test_sequences_read_quickly_are_those_of_the_protein() -> None:
    for name in NAMES:
        chains = Preparation().prepare(source(name)).complex.receptor.protein.chain_sequences()
        assert quick_sequences(source(name).protein) == list(chains.values())


def test_training_on_a_tested_chain_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    copies(tmp_path, "mine", "yours")
    shutil.copytree(COMPLEXES / "1bvi", tmp_path / "1bvi")
    (table := tmp_path / "t.csv").write_text("id,split\nmine,train\nyours,test\n1bvi,test\n")
    DockingDataset(config(tmp_path, table=str(table), cache=""), "train")
    assert "1 of 2 test complexes have a receptor chain that is also trained on" in caplog.text
    assert "yours like mine" in caplog.text
    assert same_chains({"t": ["G" * 10]}, {"x": ["G" * 10]}) == {}


# ---- the command ----------------------------------------------------------------------------------------------------


def run(arguments: list[str]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "core.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_the_command_reports_every_complex(tmp_path: Path) -> None:
    folder = copies(tmp_path / "data", "1abc", "2abc")
    (folder / "broken").mkdir()
    (folder / "broken" / "protein.pdb").write_text("<html>")
    (folder / "broken" / "ligand.sdf").write_text((COMPLEXES / "2p70" / "ligand.sdf").read_text())
    out, groups = tmp_path / "report.csv", tmp_path / "clusters.csv"
    command = ["complexes", str(folder), "--against", str(COMPLEXES), "--clusters", str(groups), "-o", str(out),
               "--cache", str(tmp_path / "cache"), "--workers", "0"]  # fmt: skip
    done = run(command)
    assert done.returncode == 0, done.stderr
    rows = {row["id"]: row for row in csv.DictReader(out.read_text().splitlines())}
    assert (rows["broken"]["used"], "HTML" in rows["broken"]["reason"]) == ("0", True)
    assert (rows["1abc"]["nearest"], rows["1abc"]["identity"], rows["1abc"]["same_ligand"]) == ("2p70", "1.0", "2p70")
    assert "2 of 3 complexes can be used" in done.stderr
    assert len({row["cluster"] for row in csv.DictReader(groups.read_text().splitlines())}) == 1
    shutil.rmtree(folder / "1abc")
    shutil.rmtree(folder / "2abc")
    done = run(command)
    assert done.returncode == 1
