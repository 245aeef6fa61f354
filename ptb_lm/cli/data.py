"""``ptb-lm data``: the corpus."""

from typing import Annotated

import typer

from ptb_lm.cli.app import AsJson, DataDir, DataName, app, show
from ptb_lm.stop import StopFlag
from ptb_lm.strict_json import to_json

data_app = typer.Typer(no_args_is_help=True, help="Fetch and describe the corpus.")
app.add_typer(data_app, name="data")


@data_app.command("fetch")
def data_fetch(
    source: Annotated[
        str | None,
        typer.Option("--from", help="A folder, a .tgz, .tar.gz or .zip archive, or a base URL."),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Get the Penn Treebank, checked by size and sha256: all three files or none."""
    from ptb_lm.corpus.download import fetch_ptb
    from ptb_lm.corpus.load import data_directory

    with StopFlag() as stop:
        folder = fetch_ptb(data_directory(data_dir), source, stop)
    show(f"The Penn Treebank is in {folder}, all three files as published.")


@data_app.command("info")
def data_info(data: DataName = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Say where a corpus is, its tokens, types, share of <unk> and checksums."""
    from ptb_lm.corpus.describe import corpus_lines, describe_corpus
    from ptb_lm.corpus.load import data_directory

    with StopFlag() as stop:
        description = describe_corpus(data or "ptb", data_directory(data_dir), stop)
    show(to_json(description) if as_json else corpus_lines(description))
