"""Fixtures of all tests: where the real corpus is, a small corpus of our own, a quiet machine."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from ptb_lm.corpus.load import Corpus, load_corpus
from ptb_lm.corpus.ptb import is_installed

pytest_plugins = ["promises"]

# Models of a test are so small that a second thread only waits, and on a busy machine for long.
torch.set_num_threads(1)

# Where signals are ignored, as under nohup or in the background of a script, the processes that
# tests start would inherit that. What is handled here, if only by doing nothing, they do not.
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda number, frame: None)

DATA_DIR = Path(os.environ.get("PTB_LM_DATA_DIR") or "data").resolve()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-golden-losses",
        action="store_true",
        help="record today's losses as the golden ones: only where they are meant to change",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    without_corpus = pytest.mark.skip(reason="the Penn Treebank is not in $PTB_LM_DATA_DIR/ptb")
    without_cuda = pytest.mark.skip(reason="PyTorch sees no CUDA device")
    for item in items:
        if item.get_closest_marker("corpus") and not is_installed(DATA_DIR):
            item.add_marker(without_corpus)
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(without_cuda)


@pytest.fixture
def workplace(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the module's ``template``, which the test may change, as the current folder."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def empty_workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with nothing in it as the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder that holds the real corpus in ptb/; for tests marked `corpus`."""
    return DATA_DIR


@pytest.fixture(scope="session")
def ptb(data_dir: Path) -> Corpus:
    return load_corpus("ptb", data_dir)


@pytest.fixture(scope="session")
def synthetic() -> Corpus:
    return load_corpus("synthetic", Path())
