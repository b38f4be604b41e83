"""Run as a program: Vina's score of every pose of a folder that ``process`` prepared. Imports nothing of ours."""

import json
import sys
from pathlib import Path

SPACING = 2.0  # Angstrom: scores are summed over the receptor's atoms, the maps that must be there are not read


def main(folder: Path) -> None:
    """Reads ``receptor.pdbqt`` and ``job.json`` (box, poses as PDBQT text), writes ``scores.json``."""
    from vina import Vina

    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    scorer = Vina(sf_name="vina", cpu=1, seed=1, verbosity=0)
    scorer.set_receptor(str(folder / "receptor.pdbqt"))
    scorer.compute_vina_maps(job["center"], job["size"], spacing=SPACING)
    rows: list[list[float | None]] = []
    for pose in job["poses"]:
        try:
            scorer.set_ligand_from_string(pose)
            rows.append([float(scorer.score()[0])])
        except (RuntimeError, TypeError, ValueError) as error:
            sys.stderr.write(f"pose {len(rows) + 1}: {error}\n")
            rows.append([None])
    (folder / "scores.json").write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
