"""Pictures that fit every domain. Agg only: no window is ever opened."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from core.diagnostics import Curve
from core.files import write_atomically
from core.latents import CodeUsage

STYLE: Any = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "font.size": 10,
    "axes.titlesize": 11, "legend.frameon": False, "figure.dpi": 130, "svg.fonttype": "none",
}  # fmt: skip
COLOURS = ("#1f77b4", "#d95f02", "#2a9d55", "#7b3294", "#7f7f7f", "#b8860b")
DASHED = ("exact", "floor")  # names that begin so are references, drawn dashed


def new_figure(columns: int = 1, rows: int = 1, size: tuple[float, float] = (4.6, 3.4)) -> tuple[Figure, list[Axes]]:
    """A figure in the house style, and its axes row by row."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write as PNG (by way of a temporary file)."""
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))
    return path


def draw_curves(
    axis: Axes, curves: Mapping[str, Curve], ylabel: str, log: str = "x", xlabel: str = "noise level t"
) -> None:
    """Quantities against noise level; ``log`` names the logarithmic axes."""
    colours = iter(COLOURS)
    for name, curve in curves.items():
        reference = name.startswith(DASHED)
        axis.plot(
            curve.levels, curve.values, label=name, color="#555555" if reference else next(colours),
            linestyle="--" if reference else "-", linewidth=1.2 if reference else 1.8,
        )  # fmt: skip
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.set_xscale("log" if "x" in log else "linear")
    axis.set_yscale("log" if "y" in log else "linear")
    axis.legend()


def plot_curves(
    curves: Mapping[str, Curve], ylabel: str, path: Path, log: str = "x", xlabel: str = "noise level t"
) -> Path:
    """One axis of ``draw_curves``, written to ``path``."""
    figure, (axis,) = new_figure()
    draw_curves(axis, curves, ylabel, log=log, xlabel=xlabel)
    return save_figure(figure, path)


def plot_usage(usage: CodeUsage, path: Path) -> Path:
    """How often each code of each latent is used."""
    count, width = usage.frequency.shape
    figure, (axis,) = new_figure(size=(min(10, 2 + 0.35 * width), 1.2 + 0.35 * count))
    image = axis.imshow(usage.frequency.cpu().numpy(), aspect="auto", cmap="Blues", vmin=0)
    axis.set(xlabel="code", ylabel="latent", yticks=range(count), title="Share of samples per code")
    axis.grid(visible=False)
    figure.colorbar(image, ax=axis)
    return save_figure(figure, path)


def scatter(
    axis: Axes, points: Tensor, colour: Tensor | str, title: str, limit: float = 4.2, size: float = 3.0
) -> None:
    """2-D points, coloured by an integer per point or by one colour."""
    xy = points.cpu().numpy()
    shade = colour if isinstance(colour, str) else np.asarray(colour.cpu())
    axis.scatter(xy[:, 0], xy[:, 1], c=shade, s=size, cmap="tab10", vmin=0, vmax=9, linewidths=0)
    axis.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", title=title)
