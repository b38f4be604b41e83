"""AutoDock Vina on prepared inputs, in a process of its own: ``python -m benchmarks.vina_docking FOLDER``.

FOLDER holds receptor.pdbqt and job.json (center, size, threads, exhaustiveness, ligands as PDBQT text; and, if wanted,
seed and cpu_limit: CPU seconds after which the system ends the process by SIGXCPU). Writes the at most ``POSES`` poses
of ligand N, best first, to FOLDER/poses-N.pdbqt and prints the cost of all ligands as one line of JSON; the maps of the
receptor are in it. It ends with the process that started it, however that ends.
"""

import ctypes
import json
import resource
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.measurement import Clock

POSES = 9
PR_SET_PDEATHSIG = 1  # Linux, as Vina's wheels are


def main(folder: Path) -> None:
    from vina import Vina

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    job = json.loads((folder / "job.json").read_text())
    if "cpu_limit" in job:
        resource.setrlimit(resource.RLIMIT_CPU, (job["cpu_limit"], job["cpu_limit"] + 5))
    clock = Clock()
    with clock.part("maps"):
        engine = Vina(sf_name="vina", cpu=job["threads"], seed=job.get("seed", 1), verbosity=0)
        engine.set_receptor(str(folder / "receptor.pdbqt"))
        engine.compute_vina_maps(job["center"], job["size"])
    for number, ligand in enumerate(job["ligands"], start=1):
        engine.set_ligand_from_string(ligand)
        engine.dock(exhaustiveness=job["exhaustiveness"], n_poses=POSES)
        (folder / f"poses-{number}.pdbqt").write_text(engine.poses(n_poses=POSES))
        print(f"vina: ligand {number} of {len(job['ligands'])}", file=sys.stderr)
    print(json.dumps(asdict(clock.stop())))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
