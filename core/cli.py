"""The command line: thin typer commands over the Python API."""

import os
import signal
import sys
from datetime import timedelta
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from core.commands import Commands
from core.console import Device, Overrides, Quiet, say, sigterm_interrupts, start_logging, this_command
from core.errors import DiscoError, RequestError

app = typer.Typer(
    name="disco", cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Discrete latents for diffusion models: train, sample, evaluate, look inside.",
)  # fmt: skip

ModelDir = Annotated[Path, typer.Argument(help="Run folder of 'disco train', or a model folder.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps of the sampler [default: the model's].")]
SamplerName = Annotated[str | None, typer.Option(help="Name of a sampler [default: the model's].")]
SamplerOption = Annotated[list[str] | None, typer.Option(help="Sampler option, NAME=VALUE; repeatable.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples per network call; changes nothing else.")]
LowModel = Annotated[
    Path | None, typer.Option(help="Model without latents that the sampler mixed takes below its threshold.")
]

CITATION = """@inproceedings{xu2024disco,
  title     = {{DisCo-Diff}: Enhancing Continuous Diffusion Models with Discrete Latents},
  author    = {Xu, Yilun and Corso, Gabriele and Jaakkola, Tommi and Vahdat, Arash and Kreis, Karsten},
  booktitle = {International Conference on Machine Learning (ICML)},
  year      = {2024},
  note      = {arXiv:2407.03300}
}"""


def _show_version(value: bool) -> bool:
    if value:
        typer.echo(f"disco-diff {package_version('disco-diff')}, torch {package_version('torch')}")
        raise typer.Exit
    return value


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print versions.")
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where in the code an error arose.")] = False,
) -> None:
    if traceback:
        os.environ["DISCO_TRACEBACK"] = "1"


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file, e.g. experiments/toy/disco.yaml.")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder [default: runs/NAME OF CONFIG].")] = None,
    stage: Annotated[str, typer.Option(help="denoiser, prior, a stage of the domain, or all.")] = "all",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build the networks, print the plan, train nothing.")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Start over in a folder that holds a run.")] = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Train a model, or go on where its run folder was left. Under torchrun: on several processes."""
    from core.config_file import load_config
    from core.training.loop import Interrupted
    from core.training.run import train as train_run

    start_logging(quiet or _rank() > 0)
    settings = load_config(config, overrides or ())
    folder = out or Path("runs") / config.stem
    if dry_run:
        from core.training.plan import plan

        for line in plan(settings, folder, int(os.environ.get("WORLD_SIZE", "1"))):
            if not _rank():
                typer.echo(line)
        return
    try:
        model = train_run(settings, folder, stage, device, overwrite, quiet)
    except Interrupted as stop:
        say(f"{stop}; everything up to the last step is saved. Go on with the same command:\n  {this_command()}")
        raise typer.Exit(128 + stop.signum) from stop
    say(f"model in {model}")


@app.command()
def sample(
    model: ModelDir,
    overrides: Overrides = None,
    out: Out = Path("samples"),
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Number of samples.")] = 16,
    seed: Annotated[int, typer.Option(help="Sample i of a seed is always the same.")] = 0,
    first: Annotated[int, typer.Option(min=0, max=2**62, help="Number of the first sample.")] = 0,
    steps: Steps = None,
    sampler: SamplerName = None,
    option: SamplerOption = None,
    given: Annotated[
        list[str] | None,
        typer.Option(help="What the domain takes, NAME=VALUE (docking: protein=, ligand=, pocket=); repeatable."),
    ] = None,
    guidance: Annotated[float | None, typer.Option(help="Extra strength of the latents; 0 = none.")] = None,
    class_guidance: Annotated[float | None, typer.Option(help="Extra strength of the class; 0 = none.")] = None,
    label: Annotated[int | None, typer.Option("--class", help="Class number [default: all in turn].")] = None,
    codes: Annotated[
        str | None, typer.Option(help="Latents to use, e.g. 3,-1,7 (-1: from the prior) [default: all from it].")
    ] = None,
    share_latents: Annotated[bool, typer.Option(help="All samples get the latents of the first.")] = False,
    low_model: LowModel = None,
    batch_size: BatchSize = 512,
    overwrite: Annotated[bool, typer.Option(help="Replace the samples that the folder holds.")] = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Generate samples with a trained model. Images: stopped, it goes on with the same command; under torchrun,
    processes share the work."""
    import torch

    from core.generation import generate_into
    from core.pipeline import Pipeline, Request
    from core.training.distributed import start_world, stop_world

    start_logging(quiet or _rank() > 0)
    world = start_world(device, timedelta(days=7))  # processes end as far apart as a batch takes
    settings = [*(overrides or ()), *_guidance(guidance, class_guidance)]
    pipeline = Pipeline.from_pretrained(model, str(world.device), settings)
    request = Request(
        count=count, first=first, seed=seed, label=label, steps=steps, share_latents=share_latents,
        spec=_given(given), codes=torch.tensor(_numbers(codes)) if codes else None, batch_size=batch_size,
        **_reverse_process(pipeline, sampler, option, low_model),
    )  # fmt: skip
    try:
        with sigterm_interrupts():
            written = generate_into(out, pipeline, request, world, overwrite, quiet)
    except KeyboardInterrupt as stop:
        if world.is_main:
            say(f"stopped; what is finished stays in {out}. Go on with:\n  {this_command('--overwrite')}")
        raise typer.Exit(128 + (stop.args[0] if stop.args else signal.SIGINT)) from stop
    stop_world(world)
    if world.is_main:
        found = ", ".join(map(str, written.files))
        already = "" if written.new else " (they were there already)"
        say(f"{count} samples, {written.nfe} network evaluations each: {found}{already}")


@app.command()
def evaluate(
    model: ModelDir,
    overrides: Overrides = None,
    out: Out = Path("evaluation"),
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=2, help="Number of samples [default: the domain's, or 2000].")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 0,
    steps: Steps = None,
    sampler: SamplerName = None,
    option: SamplerOption = None,
    low_model: LowModel = None,
    batch_size: BatchSize = 512,
    guidance: Annotated[float | None, typer.Option(help="Extra strength of the latents; 0 = none.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Also write the figures into the model's manifest.")] = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Measure generated samples against real data, under latents from the prior, from real samples, and dropped."""
    from core.checkpoint import add_metrics, find_model
    from core.pipeline import Pipeline, Request
    from core.reports import evaluate_model

    start_logging(quiet)
    pipeline = Pipeline.from_pretrained(model, device, [*(overrides or ()), *_guidance(guidance)])
    chosen = _reverse_process(pipeline, sampler, option, low_model)
    request = Request(seed=seed, steps=steps, batch_size=batch_size, **chosen)
    rows = evaluate_model(pipeline, request, out, count)
    table = Table("", *rows)
    for figure in next(iter(rows.values())):  # downwards: their names are long, and there are few rows
        table.add_row(figure, *(f"{row[figure]:.4g}" for row in rows.values()))
    Console().print(table)
    if record:
        add_metrics(find_model(model), next(iter(rows.values())))
    say(f"written to {out}")


@app.command()
def diagnose(
    model: ModelDir,
    overrides: Overrides = None,
    out: Out = Path("diagnosis"),
    count: Annotated[int, typer.Option("--count", "-n", min=2, help="Number of samples to measure on.")] = 256,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 0,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Look inside: curvature, Jacobian norm, loss against noise, code usage, latent switching, domain pictures."""
    from core.pipeline import Pipeline
    from core.reports import diagnose_model

    start_logging(quiet)
    files = diagnose_model(Pipeline.from_pretrained(model, device, overrides or ()), out, count, seed)
    say("\n".join(str(path) for path in files))


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Folder or file with weights of another program.")],
    out: Annotated[Path, typer.Argument(help="Folder for our model.")],
) -> None:
    """Turn weights of another program into a model folder. Nothing in their files is executed."""
    from core.convert import convert as convert_weights

    for note in convert_weights(source, out):
        say(note)
    say(f"model in {out}")


@app.command()
def domains() -> None:
    """List the domains that are installed."""
    from core.registry import domain_names, get_domain

    for name in domain_names():
        try:
            summary = (get_domain(name).__doc__ or "").strip().splitlines()[0]
        except DiscoError as error:
            summary = f"not usable: {error}"
        typer.echo(f"{name:10} {summary}")


@app.command()
def config(path: Annotated[Path, typer.Argument(help="YAML file.")], overrides: Overrides = None) -> None:
    """Print the resolved configuration: every key with its value."""
    from core.config_file import dump_config, load_config

    typer.echo(dump_config(load_config(path, overrides or ())), nl=False)


@app.command()
def cite() -> None:
    """Print what to cite."""
    typer.echo(CITATION)


def _rank() -> int:
    """Number of this process among those of torchrun, 0 alone."""
    return int(os.environ.get("RANK", "0"))


def _reverse_process(pipeline: Any, name: str | None, options: list[str] | None, low: Path | None) -> dict[str, Any]:
    """``sampler`` and ``low_model`` of a request, from the options of that name."""
    from core.pipeline import Pipeline

    own = pipeline.config.sampling
    alike = [f"sampling.precision={own.precision}", f"sampling.compile={own.compile or 'null'}"]
    return {
        "sampler": pipeline.sampler(name, _options_of(options)) if name or options else None,
        "low_model": Pipeline.from_pretrained(low, str(pipeline.device), alike) if low else None,
    }


def _pair(item: str, option: str) -> tuple[str, str]:
    key, equals, text = item.partition("=")
    if not equals or not key or not text:
        raise RequestError(f"{option} {item}: write it as NAME=VALUE")
    return key, text


def _given(items: list[str] | None) -> dict[str, str]:
    """Values as they stand: a SMILES such as [O-]C=O must not be read as YAML. The domain knows their types."""
    pairs: dict[str, str] = {}
    for item in items or ():
        key, text = _pair(item, "--given")
        if key in pairs:
            raise RequestError(f"--given {key} was given twice")
        pairs[key] = text
    return pairs


def _options_of(items: list[str] | None) -> dict[str, Any]:
    pairs = {}
    for item in items or ():
        key, text = _pair(item, "--option")
        try:
            pairs[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RequestError(f"--option {item}: the value is not valid YAML") from error
    return pairs


def _guidance(latents: float | None, classes: float | None = None) -> list[str]:
    """The options as settings of the model."""
    given = {"guidance": latents, "class_guidance": classes}
    return [f"sampling.{key}={value}" for key, value in given.items() if value is not None]


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise RequestError(f"--codes {text}: give whole numbers with commas between, e.g. 3,1,7") from error


def main() -> None:
    """Entry point. Errors that a user can cure are one line; exit code 1."""
    try:
        app()
    except DiscoError as error:
        if os.environ.get("DISCO_TRACEBACK"):
            raise
        say(f"{type(error).__name__}: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        say("stopped")
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
