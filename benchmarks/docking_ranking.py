"""How well a model's confidence ranks its own poses of the validation complexes.

    python -m benchmarks.docking_ranking MODEL --poses-folder DIR [--poses 10] [--steps N] [--limit N] [--margin 8]

MODEL is a model or run folder whose settings (``model.data.*``, changed by KEY=VALUE arguments) name the complexes.
Every complex gets ``--poses`` poses in the residues within ``--margin`` Angstrom of its true pose; they are kept in
DIR, so that a second call, or another ranker of the same denoiser, goes on from there. Prints the area under the ROC
curve of "RMSD below 2 A", over all poses and within the complexes that have good and bad ones, the share of complexes
whose pose is good (a random one, the best-scored one, the best there is), with 95 % bootstrap intervals over complexes,
and costs.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.errors import DiscoError
from core.pipeline import Pipeline
from domains.docking.batch import DockingBatch
from domains.docking.chemistry.pocket import Around
from domains.docking.complex import Complex
from domains.docking.config import DockingConfig
from domains.docking.crops import cut
from domains.docking.data.dataset import DockingDataset
from domains.docking.evaluation import confidences
from domains.docking.networks.confidence import ConfidenceNet
from domains.docking.networks.ranker import PoseRanker
from domains.docking.pose import Pose, pose_of
from domains.docking.ranking.config import RankingConfig
from domains.docking.ranking.figures import Scored, ranking_figures
from domains.docking.ranking.poses import LabelledPoses, PoseStore, make_all, weights_digest


def true_pose(each: Complex) -> np.ndarray:
    """[n, 3] Angstrom, frame of the protein's file."""
    coordinates = each.ligand.coordinates
    assert coordinates is not None, "a data set has none without"
    return coordinates


class Pockets:
    """Complexes with the residues that ``disco dock --pocket`` keeps: within ``margin`` Angstrom of the true pose."""

    def __init__(self, dataset: DockingDataset, margin: float, limit: int | None) -> None:
        self.complexes = [cut(each, Around(true_pose(each), margin)) for each in dataset.complexes[:limit]]

    def load(self, indices: Sequence[int] | np.ndarray, ids: Sequence[int] | np.ndarray) -> DockingBatch:
        places = [int(i) for i in indices]
        different = sorted(set(places))
        clean = [pose_of(self.complexes[i].graph, self.complexes[i].graph["ligand"].matched) for i in places]
        return DockingBatch(
            torch.as_tensor(np.asarray(ids)), tuple(self.complexes[i] for i in different),
            tuple(different.index(i) for i in places), Pose.concatenate(clean),
        )  # fmt: skip


def score(network: ConfidenceNet | PoseRanker, each: Complex, poses: LabelledPoses) -> np.ndarray:
    """[P] confidences of poses."""
    places = torch.from_numpy((poses.positions - each.receptor.centre).astype(np.float32))
    state = Pose.concatenate([pose_of(each.graph, place) for place in places])
    device = next(network.parameters()).device
    batch = DockingBatch(torch.arange(len(places)), (each,), (0,) * len(places)).to(device)
    return confidences(network, state.to(device), batch).double().cpu().numpy()


def report(scored: Sequence[Scored]) -> None:
    """Prints the figures; shares in %."""
    for name, figure in ranking_figures(scored).items():
        scale, unit = (1, "") if name.startswith("auroc") or name == "gain" else (100, " %")
        low, high = (scale * value for value in (figure.low, figure.high))
        print(f"  {name:14s} {scale * figure.value:6.2f}{unit} [{low:.2f}, {high:.2f}]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--poses-folder", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--poses", type=int, default=10)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--margin", type=float, default=8.0)
    args = parser.parse_args()
    try:
        measure(args)
    except DiscoError as error:
        sys.exit(str(error))


def measure(args: Any) -> None:
    pipeline = Pipeline.from_pretrained(args.model, "cpu", args.overrides)
    network = pipeline.networks.get("confidence")
    if not isinstance(network, ConfidenceNet | PoseRanker):
        sys.exit(f"{args.model}: has no confidence model: train one with disco train --stage confidence")
    model = pipeline.config.model
    assert isinstance(model, DockingConfig)
    language = pipeline.domain.language()  # type: ignore[attr-defined]
    pockets = Pockets(DockingDataset(model.data, args.split, language, model.quirks), args.margin, args.limit)
    settings = RankingConfig(poses=args.poses, steps=args.steps, noisy=0)
    makers = {name: net for name, net in pipeline.networks.items() if name != "confidence"}
    about = {
        "networks": weights_digest(makers), "poses": args.poses, "steps": args.steps, "margin": args.margin,
        "split": args.split, "sampling": pipeline.config.sampling.model_dump(mode="json"),
        **model.model_dump(mode="json", include={"relax"}),
    }  # fmt: skip
    store = PoseStore(args.poses_folder, about)
    store.open()
    start = time.process_time()
    make_all(pipeline, pockets, store, settings)
    made, start = time.process_time() - start, time.process_time()
    kept = [(each, store.load(each.name)) for each in pockets.complexes]
    scored = [(score(network, each, poses), poses.rmsd) for each, poses in kept if poses is not None]
    ranked, count = time.process_time() - start, len(scored) * args.poses
    print(f"{args.split}: {len(scored)} complexes, {args.poses} poses each")
    report(scored)
    print(f"CPU seconds per pose: {made / count:.3f} to make (0 where they were there), {ranked / count:.4f} to rank")


if __name__ == "__main__":
    main()
