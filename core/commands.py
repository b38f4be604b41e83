"""Commands that domains add to ``disco``, from the entry-point group ``disco.commands``, loaded when needed."""

from importlib.metadata import entry_points
from typing import Any

import typer
from typer.core import TyperGroup

GROUP = "disco.commands"


class Commands(TyperGroup):
    """The core's own commands and, behind them, those of the domains."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of the help."""
        return [*super().list_commands(ctx), *sorted(entry.name for entry in entry_points(group=GROUP))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command by name; an entry point names a function with typer's annotations."""
        own = super().get_command(ctx, cmd_name)
        found = None if own is not None else next(iter(entry_points(group=GROUP, name=cmd_name)), None)
        if found is None:
            return own
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
        single.command(cmd_name, context_settings=ctx.command.context_settings)(found.load())
        return typer.main.get_command(single)
