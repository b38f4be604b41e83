"""AutoDock Vina on prepared inputs, in a process of its own: ``python -m benchmarks.vina_docking FOLDER``.

FOLDER holds receptor.pdbqt and job.json (center, size, threads, exhaustiveness, ligands as PDBQT text). Prints the cost
of all ligands as one line of JSON; the maps of the receptor are in it.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.measurement import Clock


def main(folder: Path) -> None:
    from vina import Vina

    job = json.loads((folder / "job.json").read_text())
    clock = Clock()
    with clock.part("maps"):
        engine = Vina(sf_name="vina", cpu=job["threads"], seed=1, verbosity=0)
        engine.set_receptor(str(folder / "receptor.pdbqt"))
        engine.compute_vina_maps(job["center"], job["size"])
    for number, ligand in enumerate(job["ligands"], start=1):
        engine.set_ligand_from_string(ligand)
        engine.dock(exhaustiveness=job["exhaustiveness"], n_poses=9)
        print(f"vina: ligand {number} of {len(job['ligands'])}", file=sys.stderr)
    print(json.dumps(asdict(clock.stop())))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
