"""The demo's page: what was measured, with the pictures that belong to it."""

import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import core
from core.diagnostics import Curve
from core.pipeline import Pipeline
from core.plots import plot_curves
from domains.toy.figures import draw_samples, draw_trajectory_curves, runs_with_references, trajectory_curves
from experiments.docking_demo import DockingDemo
from experiments.measure import DIGIT_RUNS, read_curves
from experiments.page import code, heading, paragraph, picture, side_by_side, table, write_page

NAMES = {"disco": "DisCo-Diff", "plain": "plain diffusion"}
# Published, not measured here: Xu et al. 2024, section 3.2 (Wasserstein-2 of the 2-D toy).
PAPER_W2 = {"disco": "0.118", "plain": "0.27"}


def spread_of(values: Sequence[float], digits: int = 3) -> str:
    """mean ± standard deviation, or the one value."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def numbers(record: Mapping[str, Any], model: str, key: str) -> list[float]:
    """One figure of merit of a model, over the seeds; empty where it was not measured."""
    return [m["numbers"][key] for m in record["models"][model] if key in m["numbers"]]


def cell(values: Sequence[float], digits: int = 3) -> str:
    return spread_of(values, digits) if values else "-"


def levels_below(record: Mapping[str, Any], measure: str) -> tuple[int, int]:
    """At how many noise levels, over all seeds, DisCo-Diff's curve lies below the plain model's."""
    below, total = 0, 0
    for ours, plain in zip(record["models"]["toy-disco"], record["models"]["toy-plain"], strict=True):
        pairs = list(zip(ours["curves"][measure]["values"], plain["curves"][measure]["values"], strict=True))
        below, total = below + sum(a < b for a, b in pairs), total + len(pairs)
    return below, total


def toy_section(record: Mapping[str, Any], folders: Mapping[str, Path], out: Path) -> list[str]:
    """Figures 3 and 4 of the paper, and Wasserstein-2."""
    pipelines = {NAMES[kind]: Pipeline.from_pretrained(folders[f"toy-{kind}"]) for kind in NAMES}
    runs = runs_with_references(pipelines)
    samples = draw_samples({name: runs[name] for name in pipelines}, out / "figures" / "toy-samples.png")
    exact_curves = trajectory_curves({name: run for name, run in runs.items() if name not in pipelines})
    measured = {name: read_curves(record["models"][f"toy-{kind}"][0]) for kind, name in NAMES.items()}
    groups = {m: {n: c[m] for n, c in measured.items()} | exact for m, exact in exact_curves.items()}
    curves = draw_trajectory_curves(groups, out / "figures" / "toy-curves.png")
    rows: dict[str, list[str]] = {}
    for kind, name in NAMES.items():
        keys = ("w2_low_variance", "w2_independent", "spread", "min_purity")
        owned = cell(numbers(record, f"toy-{kind}", "modes_owned"), 0)
        rows[name] = [*(cell(numbers(record, f"toy-{kind}", key)) for key in keys), owned, PAPER_W2[kind]]
    truth, exact = (record["references"]["toy"][name] for name in ("true points", "exact score"))
    rows["true points (floor)"] = [cell(truth["w2_low_variance"]), cell(truth["w2_independent"]), "0.200", "", "", ""]
    rows["exact score, same sampler"] = ["", cell(exact["w2_independent"]), "", "", "", ""]
    columns = [
        "", "W2, low-variance samples", "W2, independent samples", "spread (true 0.2)", "least pure code",
        "modes owned", "W2 in the paper",
    ]  # fmt: skip
    compared = []
    for measure in ("median curvature", "mean curvature", "jacobian of the denoiser", "jacobian of the score"):
        below, total = levels_below(record, measure)
        compared.append(f"{measure}: {below} of {total}")
    return [
        heading("Eight Gaussians in the plane", "toy"),
        paragraph(
            "The latent has eight codes and the mixture eight modes. Nobody told the encoder about modes: it is "
            f"trained by denoising alone. Modes that have a code of their own: {rows[NAMES['disco']][4]} of 8."
        ),
        picture(samples, "Generated points and their trajectories (the paper's figure 3). Colour: code, or nearest "
                "mode where there are no latents."),
        table(columns, rows, list(rows)[2:]),
        paragraph(
            "W2 is the exact Wasserstein-2 distance to as many true points, equally many per mode. Independent samples "
            "hit the modes unequally often by chance, which shows in the second column, for the true points too. The "
            "first column takes the luck out, with quasi-random noise and codes."
        ),
        picture(curves, "Curvature of the trajectories and Frobenius norm of the Jacobians against noise level (the "
                "paper's figure 4), with the exact scores of the mixture and of a single mode, dashed."),
        paragraph(
            f"Noise levels at which DisCo-Diff lies below the plain model of the same size: {'; '.join(compared)}. For "
            "the Jacobian of the score, exact mathematics says that knowing the mode makes it larger at middle levels "
            "(compare the dashed lines), so there 'below everywhere' cannot be had."
        ),
    ]  # fmt: skip


def digits_section(record: Mapping[str, Any], folders: Mapping[str, Path], out: Path) -> list[str]:
    """Grids, quality at equal numbers of network evaluations, loss by noise level."""
    figures = out / "figures"
    pipeline = Pipeline.from_pretrained(folders["digits-disco"])
    pipeline.domain.figures(pipeline, figures)
    floor = record["references"]["digits"]["real digits"]
    rows: dict[str, list[str]] = {}
    for nfe, (sampler, _) in DIGIT_RUNS.items():
        keys = (f"class_accuracy@{nfe}", f"fd_hidden@{nfe}", f"fd_pixels@{nfe}")
        cells = [cell(numbers(record, f"digits-{kind}", key)) for key in keys for kind in ("disco", "plain")]
        rows[f"{nfe} ({sampler})"] = cells
    rows["real digits (floor)"] = ["", "", *[cell(floor[name]) for name in ("fd_hidden", "fd_pixels") for _ in (0, 1)]]
    groups = [("", 1), ("recognised as its class", 2), ("Fréchet, classifier features", 2), ("Fréchet, pixels", 2)]
    columns = ["network evaluations", *("DisCo", "plain") * 3]
    disco, plain = (read_curves(record["models"][f"digits-{kind}"][0]) for kind in ("disco", "plain"))
    loss: dict[str, Curve] = {
        "DisCo-Diff, latents of the encoder": disco["with latents"],
        "plain diffusion": plain["without latents"],
        "DisCo-Diff, latents dropped": disco["without latents"],
    }
    losses = plot_curves(loss, "squared error of D per pixel", figures / "digits-loss.png", log="xy")
    quality = plot_curves(
        _quality_curves(record), "Fréchet distance, pixels", figures / "digits-quality.png", "", "network evaluations"
    )
    return [
        heading("Real digits", "digits"),
        paragraph(
            "1,797 handwritten digits of 8 x 8 pixels that ship with scikit-learn. The class is given; the latents "
            "hold what else there is to know. The encoder is a small Vision Transformer, one extra token per latent."
        ),
        side_by_side([
            picture(figures / "samples.png", "Generated digits, one class per column.", pixels=True),
            picture(figures / "shared-latents.png", "Each row shares its latents over all classes. Noise is the same "
                    "within a column.", pixels=True),
        ]),
        picture(figures / "swapped-latents.png", "Latents swapped, class and noise kept within a column. From above: "
                "A; A with the second half of its codes from B; B with that of A; B.", pixels=True),
        table(columns, rows, list(rows)[-1:], groups),
        paragraph(
            f"{record['samples']} generated digits per model and row, all real digits on the other side. The distance "
            f"in pixels is lower with latents at {_where_lower(record, 'fd_pixels')} evaluations, in classifier "
            f"features at {_where_lower(record, 'fd_hidden')}. The judge of the class is a support vector "
            "machine trained on the real ones; the features are the hidden layer of a small network. Neither is FID."
        ),
        side_by_side([picture(quality, "Fréchet distance in pixels against network evaluations (mean over seeds)."),
        picture(losses, "Denoising error on held-out digits against noise level (the paper's figure 7).")]),
    ]  # fmt: skip


def _quality_curves(record: Mapping[str, Any]) -> dict[str, Curve]:
    """Distance in pixels against network evaluations, mean over seeds, and that of real digits."""
    calls = [float(nfe) for nfe in DIGIT_RUNS]
    floor = statistics.fmean(record["references"]["digits"]["real digits"]["fd_pixels"])
    curves = {"floor: real digits": Curve(calls, [floor] * len(calls))}
    for kind, name in NAMES.items():
        means = [statistics.fmean(numbers(record, f"digits-{kind}", f"fd_pixels@{nfe}")) for nfe in DIGIT_RUNS]
        curves[name] = Curve(calls, means)
    return curves


def _where_lower(record: Mapping[str, Any], merit: str) -> str:
    """The numbers of network evaluations at which DisCo-Diff's mean over seeds is below the plain model's."""

    def mean(kind: str, nfe: int) -> float:
        return statistics.fmean(numbers(record, f"digits-{kind}", f"{merit}@{nfe}"))

    return ", ".join(str(nfe) for nfe in DIGIT_RUNS if mean("disco", nfe) < mean("plain", nfe)) or "no number of"


def docking_section(demo: DockingDemo, out: Path) -> list[str]:
    """What was docked, how near it came, and the way to its report."""
    link = demo.report.relative_to(out).as_posix()
    near = sum(value < 2 for value in demo.rmsd)
    return [
        heading("A ligand docked into its protein", "docking"),
        paragraph(
            f'<a href="{link}"><strong>Open the docking report</strong></a>: poses in 3-D, what the latents point at, '
            "pose checks, and a film of every pose. It is what <code>disco dock</code> writes."
        ),
        table(
            ["", "rank 1", "median", "best", "below 2 Å"],
            {f"RMSD of {len(demo.rmsd)} poses from the true one, Å": [
                f"{demo.rmsd[0]:.2f}", f"{statistics.median(demo.rmsd):.2f}", f"{min(demo.rmsd):.2f}",
                f"{near} of {len(demo.rmsd)}",
            ]},
        ),
        paragraph(f"This is {demo.said}. The pocket was given, and this model has nothing to rank poses with.", "note"),
    ]  # fmt: skip


def write_report(record: Mapping[str, Any], folders: Mapping[str, Path], docking: DockingDemo, out: Path) -> Path:
    """index.html in ``out``. record: the content of results.json; folders: run folder of seed 0 per model."""
    seeds = len(record["models"]["toy-disco"])
    counted = "one seed" if seeds == 1 else f"{seeds} seeds, mean ± standard deviation"
    return write_page(
        "DisCo-Diff: what the latents do",
        [
            heading("What a few discrete latents do for a diffusion model", level=1),
            paragraph(
                "DisCo-Diff (Xu et al., ICML 2024) gives a diffusion model a handful of learnable categorical latents. "
                f"Everything below was trained and measured on this machine just now ({counted}).", "lead"
            ),
            '<nav><a href="#docking">Docking</a><a href="#toy">Eight Gaussians</a><a href="#digits">Digits</a>'
            '<a href="#next">Go on</a></nav>',
            *docking_section(docking, out),
            *toy_section(record, folders, out),
            *digits_section(record, folders, out),
            heading("Go on from here", "next"),
            code(
                "disco dock --protein 1abc.pdb --ligand ligand.sdf --model MODEL -o docked\n"
                f"disco sample {folders['digits-disco']} -n 20 --class 3 -o samples\n"
                f"disco diagnose {folders['digits-disco']} -o diagnosis\n"
                "disco train experiments/images/digits-disco.yaml latents.count=6 -o runs/six\n"
                "python -m experiments.demo --seeds 3 -o out/study"
            ),
            f"<footer>disco-diff {core.__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
            f"{platform.machine()}. All numbers: results.json beside this page.</footer>",
        ],
        out / "index.html",
    )  # fmt: skip
