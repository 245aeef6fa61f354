"""``ptb-lm config``: the presets."""

from typing import Annotated

import typer

from ptb_lm.cli import complete
from ptb_lm.cli.app import App, Assignments, app, show

config_app = App(no_args_is_help=True, help="List and show the presets.")
app.add_typer(config_app, name="config")


@config_app.command("list")
def config_list() -> None:
    """List the presets."""
    from ptb_lm.config import preset_headline, preset_names

    names = preset_names()
    width = max(map(len, names))
    show("\n".join(f"{name:{width}}  {preset_headline(name)}" for name in names))


@config_app.command("show")
def config_show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A preset's name or a TOML file.",
            autocompletion=complete.preset,
        ),
    ],
    assignments: Assignments = None,
) -> None:
    """Print a resolved config as TOML that --config accepts."""
    from ptb_lm.config import recipe_of, resolve, to_toml

    show(to_toml(recipe_of(resolve(name, assignments))).rstrip())
