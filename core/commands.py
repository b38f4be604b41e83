"""Commands that domains add to ``disco``, from the entry-point group ``disco.commands``, loaded when needed."""

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperGroup

from core.errors import ConfigError

GROUP = "disco.commands"


class Commands(TyperGroup):
    """The core's own commands and, behind them, those of the domains."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of the help."""
        own = super().list_commands(ctx)
        return [*own, *sorted({entry.name for entry in entry_points(group=GROUP)} - set(own))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command by name; an entry point names a function with typer's annotations."""
        own = super().get_command(ctx, cmd_name)
        found = None if own is not None else next(iter(entry_points(group=GROUP, name=cmd_name)), None)
        if found is None:
            return own
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
        single.command(cmd_name, context_settings=ctx.command.context_settings)(_loaded(found))
        return typer.main.get_command(single)


def _loaded(entry: EntryPoint) -> Callable[..., Any]:
    """The function of a command; of one that cannot be imported, a function that says so."""
    try:
        function: Callable[..., Any] = entry.load()
    except ImportError as error:
        reason = f"{entry.value} cannot be imported: {error}"

        def function() -> None:
            raise ConfigError(f"the command '{entry.name}' is not usable: {reason}")

        function.__doc__ = f"Not usable: {reason}"
    return function
