"""Run as a program: gnina's networks on every pose of a folder that ``gnina`` prepared. Imports nothing of ours.

RDKit must not be loaded: molgrid's Boost.Python then takes RDKit's converters for its own, and its import fails.
"""

import json
import sys
from pathlib import Path

BATCH = 8
RESOLUTION, EDGE = 0.5, 23.5  # Angstrom: gnina's grid


def main(folder: Path) -> None:
    """Reads ``poses.types``, a list of receptor and pose files, and writes ``scores.json``."""
    import molgrid
    import torch
    from gninatorch import dataloaders, gnina

    model, _ = gnina.setup_gnina_model("default", EDGE, RESOLUTION)
    examples = molgrid.ExampleProvider(
        data_root=str(folder), balanced=False, shuffle=False, default_batch_size=BATCH, cache_structs=True,
        iteration_scheme=molgrid.IterationScheme.SmallEpoch,
    )  # fmt: skip
    examples.populate(str(folder / "poses.types"))
    grids = dataloaders.GriddedExamplesLoader(
        example_provider=examples,
        grid_maker=molgrid.GridMaker(resolution=RESOLUTION, dimension=EDGE),
        device=torch.device("cpu"),
        grids_only=True,
    )
    rows = []
    with torch.inference_mode():
        for batch in grids:
            log_pose, affinity, _ = model(batch)
            rows += torch.stack([log_pose[:, -1].exp(), affinity], dim=1).tolist()
    (folder / "scores.json").write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
