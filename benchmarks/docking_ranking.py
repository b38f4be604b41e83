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

from core.errors import DiscoError
from core.pipeline import Pipeline
from domains.docking.config import DockingConfig
from domains.docking.data.dataset import DockingDataset
from domains.docking.networks.confidence import ConfidenceNet
from domains.docking.networks.ranker import PoseRanker
from domains.docking.ranking.config import RankingConfig
from domains.docking.ranking.figures import Scored, ranking_figures
from domains.docking.ranking.held_out import HeldOut, scores_of
from domains.docking.ranking.poses import PoseStore, make_all, weights_digest


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
    complexes = DockingDataset(model.data, args.split, language, model.quirks, args.limit).complexes
    pockets = HeldOut(complexes, args.margin)
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
    scored = [(scores_of(network, each, poses), poses.rmsd) for each, poses in kept if poses is not None]
    ranked, count = time.process_time() - start, len(scored) * args.poses
    print(f"{args.split}: {len(scored)} complexes, {args.poses} poses each")
    report(scored)
    print(f"CPU seconds per pose: {made / count:.3f} to make (0 where they were there), {ranked / count:.4f} to rank")


if __name__ == "__main__":
    main()
