"""What `data info` says of a corpus, and `data prepare` of one that it has made."""

import hashlib
import os
import shlex
from pathlib import Path
from typing import Any

from ptb_lm.config import BUILT_IN
from ptb_lm.corpus.findings import announced, corpus_findings
from ptb_lm.corpus.load import data_directory, load_corpus
from ptb_lm.corpus.ptb import PTB_FILES, is_installed, ptb_folder
from ptb_lm.corpus.splits import split_file
from ptb_lm.corpus.text import EOS
from ptb_lm.corpus.tokens import count_token
from ptb_lm.errors import InputError
from ptb_lm.paths import named_user_path, path_name
from ptb_lm.stop import NEVER, StopFlag


def describe_corpus(name: str, data_dir: Path, stop: StopFlag = NEVER) -> dict[str, Any]:
    """Describe a corpus that is here; nothing is fetched.

    Args:
        name: ``ptb``, ``synthetic`` or a folder.
        data_dir: the data folder, where ``ptb`` is.
        stop: checked while the texts are read.

    Returns:
        ``name``, ``place``, ``types``, ``vocabulary_sha256`` and for each split that there is
        ``tokens``, ``sentences``, ``unknown_share`` and the ``sha256`` of its file; and
        ``warnings``, see :class:`~ptb_lm.corpus.findings.Finding`, which are logged too.

    Raises:
        InputError: the corpus is not there or not right.
        Stopped: a signal came.
    """
    name = path_name(name)
    if name == "ptb" and not is_installed(data_dir):
        usual = data_dir == data_directory(None)
        where = "" if usual else f", with --data-dir {shlex.quote(str(data_dir))}"
        raise InputError(
            f"{ptb_folder(data_dir)}: the Penn Treebank is not there; `ptb-lm data fetch` gets it"
            f"{where}"
        )
    corpus = load_corpus(name, data_dir, stop)
    vocabulary = corpus.vocabulary
    splits = {}
    for split, tokens in corpus.splits.items():
        file = _file_of(name, split, data_dir)
        splits[split] = {
            "tokens": len(tokens),
            "sentences": count_token(tokens, vocabulary.index[EOS]),
            "unknown_share": vocabulary.share_unknown(tokens),
            "sha256": None if file is None else _sha256(file),
        }
    return {
        "name": name,
        "place": _place(name, data_dir),
        "types": len(vocabulary),
        "vocabulary_sha256": vocabulary.sha256,
        "splits": splits,
        "warnings": announced(corpus_findings(corpus, stop)),
    }


def corpus_lines(description: dict[str, Any]) -> str:
    """Write a description for a person."""
    lines = [
        f"{description['name']}: {description['place']}",
        f"{description['types']:,} types, vocabulary sha256 {description['vocabulary_sha256']}",
        f"{'':6}{'tokens':>10}{'sentences':>11}{'<unk>':>8}  sha256 of the file",
    ]
    for split, facts in description["splits"].items():
        lines.append(
            f"{split:6}{facts['tokens']:>10,}{facts['sentences']:>11,}"
            f"{facts['unknown_share']:>8.2%}  {facts['sha256'] or '(generated)'}"
        )
    if description["name"] not in BUILT_IN:
        lines.append(
            "A perplexity on it compares with those over the same words alone: the same vocabulary "
            "sha256, the same texts."
        )
    return "\n".join(lines)


def preparation_lines(description: dict[str, Any]) -> str:
    """Write for a person what :func:`ptb_lm.corpus.prepare.prepare` returns."""
    folder = description["folder"]
    lines = [
        f"{folder}: {description['types']:,} types, <eos> and <unk> among them",
        f"{'':6}{'lines':>12}{'tokens':>14}{'types':>11}{'<unk>':>8}",
    ]
    for split, facts in description["splits"].items():
        lines.append(
            f"{split:6}{facts['lines']:>12,}{facts['tokens']:>14,}{facts['types']:>11,}"
            f"{facts['unknown_share']:>8.2%}"
        )
    # Of its own: the default folder of a run is that of the same preset on the Penn Treebank.
    run_dir = Path("runs", Path(os.path.abspath(folder)).name)  # noqa: PTH100 - a `..` goes
    lines.append(
        f"next: ptb-lm train --config small --data {shlex.quote(folder)} "
        f"--run-dir {shlex.quote(str(run_dir))}"
    )
    return "\n".join(lines)


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _file_of(name: str, split: str, data_dir: Path) -> Path | None:
    if name == "synthetic":
        return None
    if name == "ptb":
        names = {file.split: file.name for file in PTB_FILES}
        return ptb_folder(data_dir) / names[split]
    return split_file(named_user_path(name), split)


def _place(name: str, data_dir: Path) -> str:
    places = {"synthetic": "built in", "ptb": str(ptb_folder(data_dir))}
    return places.get(name) or str(named_user_path(name))
