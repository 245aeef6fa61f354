"""The command line: options in, one function of the package called, results out."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ptb_lm.errors import InputError
from ptb_lm.stop import StopFlag
from ptb_lm.strict_json import to_json

# Everything that imports torch is imported inside the command that needs it, so that --help and
# the commands that only read text answer at once.

app = typer.Typer(
    name="ptb-lm",
    no_args_is_help=True,
    help="Train and evaluate recurrent language models; reproduce arXiv 1409.2329 on PTB.",
)
data_app = typer.Typer(no_args_is_help=True, help="Fetch and describe the corpus.")
config_app = typer.Typer(no_args_is_help=True, help="List and show the presets.")
app.add_typer(data_app, name="data")
app.add_typer(config_app, name="config")

DataDir = Annotated[
    Path | None,
    typer.Option(help="Data folder; default $PTB_LM_DATA_DIR, else ./data."),
]
DataName = Annotated[
    str | None,
    typer.Option(help="ptb, synthetic, or a folder with train.txt, valid.txt, test.txt."),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@app.callback()
def main(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Options of every command; --debug is read where errors are printed."""


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
    _print(f"The Penn Treebank is in {folder}, all three files as published.")


@data_app.command("info")
def data_info(data: DataName = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Say where a corpus is, its tokens, types, share of <unk> and checksums."""
    from ptb_lm.corpus.describe import corpus_lines, describe_corpus
    from ptb_lm.corpus.load import data_directory

    description = describe_corpus(data or "ptb", data_directory(data_dir))
    _print(to_json(description) if as_json else corpus_lines(description))


@app.command()
def train(
    config: Annotated[
        str | None, typer.Option(help="A preset's name or a TOML file; see `config list`.")
    ] = None,
    data: DataName = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Run folder; default runs/CONFIG-seedN.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights and dropout; default 1.")] = None,
    device: Device = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, tf32 or bf16; auto by device.")
    ] = None,
    deterministic: Annotated[
        bool | None, typer.Option("--deterministic", help="The same bits each time on CUDA too.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a key; repeatable."),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Stop, resumable, after this many steps in all.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the folder, if there is one.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew in an existing run folder.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Train a model and print its validation and test perplexity beside the paper's."""
    from ptb_lm.config import resolve
    from ptb_lm.corpus.load import data_directory

    if resume and overwrite:
        raise InputError("--resume and --overwrite: choose one: go on, or begin anew")
    if config is None and resume and run_dir is not None and (run_dir / "config.toml").exists():
        config = str(run_dir / "config.toml")
    if config is None:
        raise InputError("--config: missing; name a preset or file; see `ptb-lm config list`")
    options = {
        "data": data,
        "seed": seed,
        "device": device,
        "precision": precision,
        "deterministic": deterministic,
    }
    given = {key: value for key, value in options.items() if value is not None}
    resolved = resolve(config, assignments, given)

    with StopFlag() as stop:
        from ptb_lm.evaluation.evaluate import score_finished_run
        from ptb_lm.report.summary import run_summary
        from ptb_lm.training.environment import settled
        from ptb_lm.training.loop import train as train_run
        from ptb_lm.training.run import open_run

        data_folder = data_directory(data_dir)
        folder = run_dir or Path("runs") / settled(resolved).run_name
        with open_run(
            resolved, data_folder, folder, stop, resume=resume, overwrite=overwrite
        ) as run:
            if run.finished:
                rest = "there is nothing to do" if run.folder.is_scored else "scoring it"
                _say(f"{folder}: finished already; {rest}.")
            train_run(run, stop, max_steps)
            if run.finished:
                _print(run_summary(run, score_finished_run(run, stop)))


@app.command("eval")
def evaluate(
    checkpoints: Annotated[list[Path], typer.Argument(metavar="CKPT...")],
    split: Annotated[str | None, typer.Option(help="train, valid or test (default).")] = None,
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Another text instead of a split.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="stream or columns; default as the paper: test stream, others columns."),
    ] = None,
    save_scores: Annotated[
        Path | None,
        typer.Option(metavar="F.npz", help="Keep the log-probability of each target."),
    ] = None,
    mc_samples: Annotated[
        int,
        typer.Option(min=0, help="And the mean probability of N passes with dropout."),
    ] = 0,
    device: Device = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Print the perplexity of each checkpoint and, for several, of their average."""
    from ptb_lm.corpus.load import data_directory
    from ptb_lm.evaluation.evaluate import EvaluationRequest, evaluate_checkpoints
    from ptb_lm.evaluation.scores import result_table
    from ptb_lm.evaluation.scores import save_scores as write_scores
    from ptb_lm.report.summary import evaluation_summary

    request = EvaluationRequest.of(split, text, protocol, mc_samples)
    if save_scores is not None and len(checkpoints) > 1:
        raise InputError("--save-scores: takes one checkpoint at a time")
    with StopFlag() as stop:
        members, sampled, configs = evaluate_checkpoints(
            checkpoints, request, data_directory(data_dir), device or "auto", stop
        )
        if save_scores is not None:
            write_scores((sampled or members)[0], save_scores)
    if as_json:
        result = result_table(members)
        if sampled:
            result["monte_carlo"] = {"samples": mc_samples, **result_table(sampled)}
        _print(to_json(result))
        return
    _print(evaluation_summary(members, configs))
    if sampled:
        _print(f"by the mean probability of {mc_samples:,} passes with dropout:")
        _print(evaluation_summary(sampled, configs))


@app.command()
def average(
    score_files: Annotated[list[Path], typer.Argument(metavar="SCORES.npz...")],
    as_json: AsJson = False,
) -> None:
    """Print the exact perplexity of the average of models from their saved scores."""
    from ptb_lm.evaluation.scores import load_scores, result_table
    from ptb_lm.report.summary import average_summary

    members = [load_scores(path) for path in score_files]
    _print(to_json(result_table(members)) if as_json else average_summary(members))


@app.command()
def generate(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT")],
    words: Annotated[int, typer.Option(min=1, help="How many words to draw.")] = 100,
    prompt: Annotated[str, typer.Option(help="Words to go on from.")] = "",
    temperature: Annotated[float, typer.Option(min=0.01, help="1 is the model as it is.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1)] = 1,
    device: Device = None,
) -> None:
    """Sample text, a sentence a line."""
    import torch

    from ptb_lm.corpus.text import EOS, from_command_line
    from ptb_lm.evaluation.generate import generate as sample
    from ptb_lm.model.libraries import set_libraries
    from ptb_lm.training.checkpoint import load_checkpoint
    from ptb_lm.training.environment import choose_device

    loaded = load_checkpoint(checkpoint)
    set_libraries(loaded.config.run.precision)
    network = loaded.network().to(choose_device(device or "auto"))
    generator = torch.Generator().manual_seed(seed)
    start = from_command_line(prompt).split()
    sys.stdout.write(" ".join(start))
    space = " " if start else ""
    for word in sample(network, loaded.vocabulary, start, words, temperature, generator):
        sys.stdout.write("\n" if word == EOS else space + word)
        sys.stdout.flush()
        space = "" if word == EOS else " "
    sys.stdout.write("\n")


@app.command("report")
def report_command(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN", help="Run folders; default: those in ./results."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write Markdown, JSON, HTML and the curves there."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set runs beside the paper's table: seeds, averages, learning curves; no model is loaded."""
    from ptb_lm.report.comparison import compare
    from ptb_lm.report.evidence import read_runs
    from ptb_lm.report.markdown import report_markdown
    from ptb_lm.report.output import write_report
    from ptb_lm.report.record import report_record

    comparison = compare(read_runs(runs or [], Path("results")))
    files = [] if out is None else write_report(comparison, out)
    written = f"{out}: {', '.join(file.name for file in files)}"
    if as_json:
        _print(to_json(report_record(comparison)))
        if files:
            _say(written)
    else:
        _print(written if files else report_markdown(comparison, {}))


@app.command("bench")
def bench_command(
    presets: Annotated[
        list[str] | None, typer.Argument(metavar="[PRESET...]", help="Default: the paper's three.")
    ] = None,
    device: Device = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, tf32 or bf16; auto by device.")
    ] = None,
    against_stock: Annotated[
        bool, typer.Option("--against-stock", help="Alternate with benchmarks/stock.py.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Of two seconds; the median counts.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Time this machine: words per second of each preset beside the machine's own limit."""
    from ptb_lm.config import resolve
    from ptb_lm.report.bench import PAPER_PRESETS, bench, bench_json, bench_table
    from ptb_lm.report.bench_worker import Subject
    from ptb_lm.training.environment import choose_device, describe_environment, settled

    chosen = choose_device(device or "auto")
    options = {"device": chosen.type, "precision": precision or "auto"}
    rows = []
    for preset in presets or PAPER_PRESETS:
        run = settled(resolve(preset, options=options)).run
        subject = Subject(preset, run.device, run.precision)
        _say(f"{preset} on {subject.device}, {subject.precision} …")
        rows.append(bench(subject, against_stock=against_stock, rounds=rounds))
    environment = describe_environment(chosen)
    _print(to_json(bench_json(rows, environment)) if as_json else bench_table(rows))


@config_app.command("list")
def config_list() -> None:
    """List the presets."""
    from ptb_lm.config import preset_headline, preset_names

    names = preset_names()
    width = max(map(len, names))
    _print("\n".join(f"{name:{width}}  {preset_headline(name)}" for name in names))


@config_app.command("show")
def config_show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A preset's name or a TOML file.")],
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE")
    ] = None,
) -> None:
    """Print a config, resolved, as TOML that --config takes."""
    from ptb_lm.config import recipe_of, resolve, to_toml

    _print(to_toml(recipe_of(resolve(name, assignments))).rstrip())


def _print(result: str) -> None:
    """Write a result to standard output."""
    sys.stdout.write(result + "\n")


def _say(message: str) -> None:
    """Write a word on progress to standard error."""
    sys.stderr.write(message + "\n")
