"""Options of ``disco dock`` under the names that users of DiffDock, Vina and gnina know."""

from pathlib import Path
from typing import Annotated

import typer

Triple = tuple[float, float, float]
Protein = Annotated[
    Path | None, typer.Option("--protein", "-r", "--receptor", "--protein_path", help="PDB or mmCIF file.")
]
Ligand = Annotated[
    str | None,
    typer.Option(
        "--ligand", "-l", "--ligand_description",
        help="SDF, MOL, MOL2, PDB or SMILES file (every record is docked), or a SMILES.",
    ),
]  # fmt: skip
Table = Annotated[
    Path | None,
    typer.Option(
        "--csv", "--protein_ligand_csv",
        help="Table with the columns complex_name, protein_path, ligand_description, as DiffDock reads it.",
    ),
]  # fmt: skip
Out = Annotated[
    Path, typer.Option("--out", "-o", "--out_dir", help="Folder for the results; what is in it is not docked again.")
]
Name = Annotated[
    str | None, typer.Option("--name", "--complex_name", help="Name of the complex [default: from the files].")
]
Template = Annotated[str | None, typer.Option(help="SMILES that gives the bond orders of a PDB or PDBQT ligand.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="disco or plain (shipped), or a folder [default: $DISCO_DOCKING_MODEL or disco]."
    ),
]
Poses = Annotated[
    int | None, typer.Option("--poses", "--samples_per_complex", "--num_modes", help="Poses per complex [default: 40].")
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", "--inference_steps", help="Steps of the sampler [default: the model's, usually 20]."),
]
Sampler = Annotated[str | None, typer.Option(help="Name of a sampler [default: the model's].")]
Guidance = Annotated[float | None, typer.Option(help="Extra strength of the latents; 0 = none.")]
Seed = Annotated[int | None, typer.Option(help="Pose k follows from seed, id of the complex and k alone [default: 0].")]
Pocket = Annotated[
    Path | None,
    typer.Option("--pocket", "--autobox_ligand", help="Ligand file: dock around its place [default: anywhere]."),
]
Margin = Annotated[
    float | None,
    typer.Option("--margin", "--autobox_add", help="Angstrom around it that belong to the pocket [default: 10]."),
]
Center = Annotated[Triple | None, typer.Option(metavar="X Y Z", help="Centre of the pocket, Angstrom.")]
Size = Annotated[Triple | None, typer.Option(metavar="X Y Z", help="Edges of a box there, Angstrom.")]
Radius = Annotated[float | None, typer.Option(help="Or the radius of a sphere there, Angstrom.")]
Check = Annotated[bool | None, typer.Option("--check/--no-check", help="PoseBusters on every pose.")]
Minimize = Annotated[
    bool | None, typer.Option("--minimize/--no-minimize", help="Relax every pose in the rigid pocket.")
]
Rescore = Annotated[list[str] | None, typer.Option(help="vina or gnina: their scores of the poses; repeatable.")]
Trajectory = Annotated[
    bool | None, typer.Option("--trajectory/--no-trajectory", help="Also write the way to every pose.")
]
BatchSize = Annotated[
    str | None, typer.Option("--batch-size", "--batch_size", help="Poses per network call [default: auto].")
]
Workers = Annotated[
    int | None,
    typer.Option(min=0, help="Processes; 0: this one, the first to start [default: one per core, or two per GPU]."),
]
Config = Annotated[
    Path | None, typer.Option(help="YAML with these settings, e.g. config.yaml of a run; options beat it.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Dock everything again.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Read all inputs, say what is wrong with them, dock nothing, write nothing.")
]
Report = Annotated[bool, typer.Option("--report/--no-report", help="report.html to look at.")]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")]
# As Vina and gnina have them; typer alone would make --center-x of it.
CenterX = Annotated[float | None, typer.Option("--center_x", hidden=True)]
CenterY = Annotated[float | None, typer.Option("--center_y", hidden=True)]
CenterZ = Annotated[float | None, typer.Option("--center_z", hidden=True)]
SizeX = Annotated[float | None, typer.Option("--size_x", hidden=True)]
SizeY = Annotated[float | None, typer.Option("--size_y", hidden=True)]
SizeZ = Annotated[float | None, typer.Option("--size_z", hidden=True)]
