"""``disco complexes``: the command."""

from pathlib import Path
from typing import Annotated

import typer

from core.console import Quiet, say, start_logging

Folder = Annotated[str, typer.Argument(metavar="FOLDER", help="Complexes, one sub-folder each, or Binding MOAD.")]
Table = Annotated[str, typer.Option(help="CSV with id and split, or with id, protein and ligand (files).")]
Splits = Annotated[str, typer.Option(help="Folder with lists of names, as timesplit_no_lig_overlap_train.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="CSV with a row per complex.")]
Against = Annotated[
    str,
    typer.Option(
        metavar="FOLDER|train",
        help="Compare with these complexes; 'train': the test split with the training split of the same table.",
    ),
]
Clusters = Annotated[Path | None, typer.Option(help="CSV of sequence clusters at 30 % identity.")]
Conformers = Annotated[int, typer.Option(min=1, help="As model.data.conformers.")]
CacheFolder = Annotated[str, typer.Option("--cache", help="As model.data.cache; '' keeps nothing.")]
Workers = Annotated[int | None, typer.Option(min=0, help="Processes; 0 = none but this [default: one per processor].")]


def complexes(
    folder: Folder = "",
    table: Table = "",
    splits: Splits = "",
    out: Out = Path("complexes.csv"),
    against: Against = "",
    clusters: Clusters = None,
    conformers: Conformers = 1,
    cache: CacheFolder = "default",
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Prepare complexes for training, and report which can be used and what they share.

    Exit code: 0 where any can be used.
    """
    start_logging(quiet)
    from core.registry import get_domain

    get_domain("docking")  # says which packages are missing
    from core.files import write_text
    from domains.docking.data import report as r
    from domains.docking.data import sequences
    from domains.docking.data.prepare import Preparation
    from domains.docking.data.processes import default_workers
    from domains.docking.data.sources import find_sources
    from domains.docking.data.store import Cache

    settings = Preparation(conformers), Cache(cache), default_workers() if workers is None else workers
    found = r.report_on(find_sources(folder, table, splits), *settings)
    said = [found.summary()]
    if against and found.chains:
        tested = found.of_split("test") if against == "train" else found
        trained = found.of_split("train") if against == "train" else r.report_on(find_sources(against), *settings)
        if not trained.chains:
            said.append(f"{against}: {trained.summary()}")
        else:
            said.append(r.compare(tested, trained))
    write_text(out, r.table(found.rows.values()))
    if clusters is not None:
        groups = sequences.clusters(found.chains)
        write_text(clusters, r.table({"id": name, "cluster": group} for name, group in groups.items()))
        said.append(f"{len(set(groups.values()))} clusters in {clusters}")
    say("\n".join([*said, f"every complex is in {out}"]))
    if not found.chains:
        raise typer.Exit(1)
