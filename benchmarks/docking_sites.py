"""How often the binding-site finder hits the ligand, against random points of the surface.

    python -m benchmarks.docking_sites FOLDER TABLE --model MODEL [--split val] [--count 5] [--limit N]

FOLDER holds one sub-folder per complex, TABLE their ids and splits (docs/docking.md); MODEL is a model or run folder
with a site finder. DCA4: the centre of one of the best sites lies within 4 A of a heavy atom of the ligand; DCC4, DCC8:
within 4 or 8 A of its centroid; "any copy": also of its image in other copies of the same chain. A column ``subset`` of
the table gives rows of their own. Prints shares in % with 95 % intervals, how well claimed probabilities hold, and CPU
seconds per protein.
"""

import argparse
import csv
import itertools
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.checkpoint import find_model, load_part, read_manifest
from core.errors import CheckpointError, DataError, DiscoError
from domains.docking.chemistry.ligand import read_coordinates
from domains.docking.chemistry.protein import read_protein
from domains.docking.config import DockingConfig
from domains.docking.data import complex_files
from domains.docking.sites.finder import find_sites
from domains.docking.sites.measures import (
    SiteDistances,
    hit_rates,
    random_distances,
    random_hit_rates,
    site_distances,
    wilson,
)
from domains.docking.sites.network import SiteNet

BINS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Row:
    """One complex: its subset, its sites and all its points against the true pose, CPU seconds of the finder."""

    subset: str
    sites: SiteDistances
    points: SiteDistances
    seconds: float


def read_network(folder: Path) -> SiteNet:
    """The site finder of a model or run folder, as its manifest says it was made. Raises CheckpointError."""
    model = find_model(folder)
    manifest = read_manifest(model)
    config = manifest.config.model
    if not isinstance(config, DockingConfig) or config.sites is None or "sites" not in manifest.weights:
        raise CheckpointError(f"{model}: has no site finder: train one with disco train --stage sites")
    network = SiteNet(config.sites)
    load_part(model, "sites", network, manifest)
    return network.eval()


def measure(network: SiteNet, folder: Path, subset: str, count: int) -> Row:
    """Raises DataError or RequestError where the files are missing or cannot be read."""
    file, *ligands = complex_files(folder)
    protein, ligand = read_protein(file), read_coordinates(ligands[0])
    start = time.process_time()
    sites = find_sites(network, protein, count)
    seconds = time.process_time() - start
    return Row(subset, site_distances(sites, protein, ligand), random_distances(protein, ligand), seconds)


def report(rows: Sequence[Row]) -> None:
    found, chance = hit_rates([row.sites for row in rows]), random_hit_rates([row.points for row in rows])
    for name, hits in found.items():
        low, high = wilson(hits)
        print(
            f"  {name:22s} {100 * hits.mean():5.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
            f"   random {100 * chance[name].mean():5.1f} %"
        )


def calibration(rows: Sequence[Row]) -> None:
    claimed = np.concatenate([row.sites.probability for row in rows])
    held = np.concatenate([row.sites.atom < 4 for row in rows])
    print(f"probability: Brier score {((claimed - held) ** 2).mean():.3f}")
    for low, high in itertools.pairwise(BINS):
        inside = (claimed >= low) & (claimed < high)
        if inside.any():
            print(f"  {low:.2f} to {high:.2f}: claimed {claimed[inside].mean():.2f}, "
                  f"held {held[inside].mean():.2f} (n = {inside.sum()})")  # fmt: skip


def read_table(path: Path, split: str) -> Mapping[str, str]:
    """Subset of every complex of the split, by its id."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    if not rows:
        raise DataError(f"{path}: has no split '{split}'")
    return {row["id"]: row.get("subset") or split for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    try:
        measure_all(args)
    except DiscoError as error:
        sys.exit(str(error))


def measure_all(args: Any) -> None:
    network, rows = read_network(args.model), []
    for name, subset in list(read_table(args.table, args.split).items())[: args.limit]:
        try:
            rows.append(measure(network, args.folder / name, subset, args.count))
        except DiscoError as error:
            print(f"{name} left out: {error}", file=sys.stderr)
    for subset in sorted({row.subset for row in rows}):
        chosen = [row for row in rows if row.subset == subset]
        print(f"{subset}: {len(chosen)} complexes")
        report(chosen)
    calibration(rows)
    print(f"CPU seconds per protein: median {np.median([row.seconds for row in rows]):.2f}")


if __name__ == "__main__":
    main()
