"""What discrete latents do in a trained docking model.

    python -m benchmarks.docking_latents loss MODEL --plain MODEL2 --out DIR [--draws 16] [--times 0.1 0.2 ...]
    python -m benchmarks.docking_latents prior MODEL --out DIR
    python -m benchmarks.docking_latents meaning MODEL --out DIR
    python -m benchmarks.docking_latents sampling MODEL --out DIR [--poses 10] [--studies latents guidance ...]

MODEL is a model or run folder whose settings (``model.data.*``, changed by --set KEY=VALUE) name the complexes, of
which everything is measured in the pockets around the true poses. Each writes JSON, a PNG and the Markdown table that
it prints, with 95 % bootstrap intervals over complexes.

loss: denoising loss at fixed times under the latents of the encoder, of the prior, at random and dropped, and of a
model without latents; prior: accuracy and likelihood of the prior for the encoder's choices; meaning: what pointer
latents point at; sampling: success against latents, temperature, guidance, samplers and network calls.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.docking_latents import loss, meaning, prior, sampling
from benchmarks.measurement import errors_told

RUNS = {"loss": loss.run, "prior": prior.run, "meaning": meaning.run, "sampling": sampling.run}


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = root.add_subparsers(dest="command", required=True)
    for name in RUNS:
        each = commands.add_parser(name)
        each.add_argument("model", type=Path)
        each.add_argument("--out", type=Path, required=True)
        each.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
        each.add_argument("--split", default="val")
        each.add_argument("--complexes", type=int, help="at most so many")
        each.add_argument("--margin", type=float, default=10.0, help="of the pocket, Angstrom")
        each.add_argument("--seed", type=int, default=0)
        each.add_argument("--device", default="cpu")
        if name == "sampling":
            each.add_argument("--poses", type=int, default=10)
            each.add_argument("--studies", nargs="+", choices=sampling.STUDIES, default=sampling.STUDIES)
        else:
            each.add_argument("--draws", type=int, default=16, help="noises, or draws of latents, per complex")
        if name == "loss":
            each.add_argument("--plain", type=Path, help="a model without latents")
            each.add_argument("--times", type=float, nargs="+", default=loss.TIMES)
    return root


@errors_told
def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    print(RUNS[options.command](options))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
