"""The command line. Each subcommand `x` is a click command named `x` in `autosp/cli/x.py`,
imported when it is called or listed."""

from __future__ import annotations

import importlib
import pkgutil

import click

from autosp.errors import AutospError


class _Commands(click.Group):
    """A group whose commands are the modules of this package."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        return getattr(importlib.import_module(f"{__name__}.{cmd_name}"), cmd_name)

    def invoke(self, ctx: click.Context):
        try:
            return super().invoke(ctx)
        except AutospError as error:
            click.echo(str(error), err=True)
            ctx.exit(1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="autosp", message="%(prog)s %(version)s")
def main() -> None:
    """Declarative sequence parallelism: write what is sharded, train on long contexts."""
