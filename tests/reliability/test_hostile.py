"""Files from a stranger: what they ask for is not done, what they declare is not believed.

Each checkpoint here carries a seal that is right, so that what refuses it is not the seal.
"""

import ast
import copyreg
import gzip
import io
import json
import marshal
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from cli_support import done, furnish, train_arguments
from hostile import (
    Member,
    Watched,
    call,
    in_dict,
    in_list,
    in_tuple,
    named,
    number,
    packed,
    raw,
    records_of,
    seal_of,
    sealed,
    word,
    zeros,
    zipped,
)
from promises import Tally

ROOT = Path(__file__).resolve().parents[2]
GOOD, SCORES = "runs/part/last.pt", "runs/a/scores-test.npz"
MARKER = "executed"

EVAL = ["eval", "bad.pt", "--text", "note.txt"]
COLUMNS = [*EVAL, "--protocol", "columns"]
OWN_DATA = ["eval", "bad.pt"]
GENERATE = ["generate", "bad.pt", "--words", "3"]
RESUME = ["train", "--resume", "--run-dir", "runs/bad"]
AVERAGE = ["average", "bad.npz"]

USUAL = [
    ["eval", GOOD, "--text", "note.txt", "--protocol", "columns"],
    ["generate", GOOD, "--words", "3"],
    ["train", "--resume", "--run-dir", "runs/a"],
    ["average", SCORES],
]


@dataclass(frozen=True)
class Workplace:
    """A folder with good files, from which bad ones are made.

    Attributes:
        content: what the good checkpoint holds.
        records: the records of its archive.
        arrays: of the good score file.
    """

    folder: Path
    content: dict[str, Any]
    records: dict[str, bytes]
    arrays: dict[str, Any]

    def put(self, checkpoint: bytes) -> None:
        """Write a checkpoint to where the commands look for it: alone, and as both of a run."""
        run = self.folder / "runs/bad"
        if not run.exists():
            shutil.copytree(self.folder / "runs/part", run)
        for path in (self.folder / "bad.pt", run / "last.pt", run / "previous.pt"):
            path.write_bytes(checkpoint)

    def saved(self, **changes: Any) -> bytes:
        """Return a checkpoint with parts changed, written as good ones are."""
        buffer = io.BytesIO()
        torch.save({**self.content, **changes}, buffer)
        return sealed(buffer.getvalue())

    def config(self, section: str, key: str, value: Any) -> dict[str, Any]:
        config = self.content["config"]
        return {**config, section: {**config[section], key: value}}

    def state(self, **changes: Any) -> dict[str, Any]:
        return {**self.content["state"], **changes}

    def pickled(self, values: bytes) -> bytes:
        """Return a checkpoint with another pickle in it."""
        return sealed(packed({**self.records, "data.pkl": values}))

    def with_part(self, name: str, opcodes: bytes) -> bytes:
        """Return a checkpoint with a part that opcodes make."""
        body = self.records["data.pkl"].removesuffix(b".")
        return self.pickled(body + word(name) + opcodes + b"s.")

    def members(self) -> list[Member]:
        return [Member(f"a/{name}", data) for name, data in self.records.items()]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """The workplace, in a folder of its own that nothing may be written into."""
    folder = tmp_path_factory.mktemp("outside") / "inside"
    folder.mkdir()
    furnish(folder)
    with chdir(folder):
        done(*train_arguments("runs/part", "--max-steps", "30"))
    (folder / "note.txt").write_text("a b c d <unk>\n" * 5)
    (folder / "intruder.py").write_text(RUN)
    content = torch.load(folder / GOOD, weights_only=True)
    with np.load(folder / SCORES) as arrays:
        return Workplace(
            folder, content, records_of((folder / GOOD).read_bytes()), dict(arrays.items())
        )


@pytest.fixture(scope="module")
def watched(workplace: Workplace) -> Iterator[Watched]:
    with Watched(workplace.folder, USUAL) as process:
        yield process


def faults(watched: Watched, command: list[str], *, refused: bool = True) -> list[str]:
    """Run a command on a hostile file and say what is wrong with how it went."""
    answer = watched.run(*command)
    # A training writes into its folder and asks git for the commit that it is made with.
    usual = ("runs/bad", "'git'") if command is RESUME else ()
    complaint = answer.complaint(usual)
    found = [] if complaint is None else [complaint]
    if refused and answer.code == 0:
        found.append("not refused")
    marker = watched.folder / MARKER
    if marker.exists():
        found.append("executed")
        marker.rmdir()
    return [f"{' '.join(command)}: {fault}" for fault in found]


# Code in pickles.

RUN = f"import os; os.mkdir({MARKER!r})"
SHELL = f"mkdir {MARKER}"
NEXT = word(MARKER)
MKDIR, SYSTEM = named("os", "mkdir"), named("os", "system")
EXEC = named("builtins", "exec")
OS = call(named("builtins", "__import__"), word("os"))
MKDIR_MAP = named("builtins", "map") + in_tuple(MKDIR, in_list(NEXT)) + b"\x81"
OLD_TORCH = b"".join(
    pickle.dumps(value)
    for value in (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {})
)

PAYLOADS = {
    "os.mkdir": call(MKDIR, NEXT),
    "os.system": call(SYSTEM, word(SHELL)),
    "posix.system by GLOBAL": call(named("posix", "system"), word(SHELL)),
    "posix.system by STACK_GLOBAL": call(word("posix") + word("system") + b"\x93", word(SHELL)),
    "a dotted name": call(word("os") + word("path.os.mkdir") + b"\x93", NEXT),
    "subprocess": call(named("subprocess", "check_call"), in_list(word("mkdir"), NEXT)),
    "eval": call(named("builtins", "eval"), word(f"__import__('os').mkdir({MARKER!r})")),
    "exec": call(EXEC, word(RUN)),
    "getattr": call(call(named("builtins", "getattr"), OS, word("mkdir")), NEXT),
    "methodcaller": call(call(named("operator", "methodcaller"), word("mkdir"), NEXT), OS),
    "partial": call(call(named("functools", "partial"), MKDIR, NEXT)),
    "INST": b"(" + NEXT + b"ios\nmkdir\n",
    "OBJ": b"(" + MKDIR + NEXT + b"o",
    "NEWOBJ": named("builtins", "tuple") + MKDIR_MAP + b"\x85\x81",
    "NEWOBJ_EX": named("builtins", "tuple") + MKDIR_MAP + b"\x85}\x92",
    "BUILD": named("argparse", "Namespace")
    + (b")\x81" + in_dict({"__setstate__": SYSTEM}) + b"b")
    + (word(SHELL) + b"b"),
    "EXT1": call(named("copyreg", "add_extension"), word("os"), word("mkdir"), b"K\xf0")
    + (b"0" + call(b"\x82\xf0", NEXT)),
    "a chain of calls": call(
        call(call(named("builtins", "getattr"), OS, word("__getattribute__")), word("mkdir")), NEXT
    ),
    "a pickle in a pickle": call(named("pickle", "loads"), raw(call(MKDIR, NEXT) + b".")),
    "a pickle in PyTorch's": call(
        named("torch.storage", "_load_from_bytes"),
        raw(OLD_TORCH + call(MKDIR, NEXT) + b".]."),
    ),
    "a code object": call(
        call(
            named("types", "FunctionType"),
            call(named("marshal", "loads"), raw(marshal.dumps(compile(RUN, "-", "exec")))),
            in_dict({}),
        )
    ),
    "timeit": call(named("timeit", "timeit"), word(RUN), word(""), named("time", "time"), b"K\x01"),
    "a script": call(named("runpy", "run_path"), word("intruder.py")),
    "an import": call(named("importlib", "import_module"), word("intruder")),
    "a profiler": call(named("profile", "run"), word(RUN)),
    "NumPy's runstring": call(named("numpy.testing", "runstring"), word(RUN), in_dict({})),
}

PLACES: dict[str, Callable[[bytes, bytes], bytes]] = {
    "alone": lambda payload, body: b"\x80\x02" + payload + b".",
    "as a part": lambda payload, body: body + word("extra") + payload + b"s.",
    "as a name": lambda payload, body: body + payload + b"Ns.",
    "as a storage": lambda payload, body: (
        body + word("extra") + in_tuple(word("storage"), payload) + b"Qs."
    ),
    "as what a tensor is made of": lambda payload, body: (
        body + word("extra") + call(named("torch._utils", "_rebuild_tensor_v2"), payload) + b"s."
    ),
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_the_payloads_do_run_where_a_pickle_is_trusted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "intruder.py").write_text(RUN)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pickle.loads(b"\x80\x04" + PAYLOADS[name] + b".")
    finally:
        sys.modules.pop("intruder", None)
        if name == "EXT1":
            copyreg.remove_extension("os", "mkdir", 0xF0)
    assert (tmp_path / MARKER).is_dir()


@pytest.mark.promise("hostile files")
def test_code_in_a_checkpoint_is_never_run(
    workplace: Workplace, watched: Watched, tally: Tally
) -> None:
    """Checkpoints whose pickle calls a system's command, Python code or a file run nothing."""
    found, executions = [], 0
    body = workplace.records["data.pkl"].removesuffix(b".")
    commands = (EVAL, GENERATE, RESUME)
    for index, (name, payload) in enumerate(PAYLOADS.items()):
        for turn, (place, put_in) in enumerate(PLACES.items()):
            if not tally.full and turn != index % len(PLACES):
                continue
            workplace.put(workplace.pickled(put_in(payload, body)))
            for command in commands if tally.full else (commands[index % 3],):
                faulty = faults(watched, command)
                found += [f"{name} {place}: {fault}" for fault in faulty]
                executions += any("executed" in fault for fault in faulty)
                tally.count("openings of checkpoints that hold code")
        tally.count("kinds of code in them")
    assert not found, "\n".join(found)
    tally.count("executions", executions)


class Intruder:
    """Unpickled, it makes a folder: what must not run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (MARKER,)


def old_format(workplace: Workplace) -> bytes:
    buffer = io.BytesIO()
    torch.save({"weights": Intruder()}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue() + seal_of(buffer.getvalue())


def oldest_format(workplace: Workplace) -> bytes:
    """Return a tar archive, as PyTorch once wrote them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            data = pickle.dumps(Intruder(), 2)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue() + seal_of(buffer.getvalue())


def bare_pickle(workplace: Workplace) -> bytes:
    data = pickle.dumps(Intruder(), 2)
    return data + seal_of(data)


def after_a_pickle(workplace: Workplace) -> bytes:
    return sealed(EVIL + packed(workplace.records))


def torch_script(workplace: Workplace) -> bytes:
    code = f"{RUN}\ndef forward(self, x):\n  return x\n".encode()
    return sealed(packed({"data.pkl": EVIL, "constants.pkl": EVIL, "code/__torch__.py": code}))


def two_pickles(first: str, second: str) -> Callable[[Workplace], bytes]:
    """Write an archive with a good pickle by the first name and one that runs code by another."""

    def write(workplace: Workplace) -> bytes:
        values = Member(first, workplace.records["data.pkl"]), Member(second, EVIL)
        return sealed(zipped([*values, *workplace.members()[1:], Member("a/version", b"3\n")]))

    return write


def two_directories(workplace: Workplace, evil: bytes | None = None) -> bytes:
    """Write an archive whose end declares one directory, while another lies right before it.

    Python reads the second, in which all is well; PyTorch the first.
    """
    version = Member("a/version", b"3\n")
    bad = zipped([Member("a/data.pkl", evil or EVIL), version])
    good_values = Member("a/data.pkl", workplace.records["data.pkl"])
    good = zipped([good_values, version])
    bad_files, bad_directory = split(bad)
    good_files, directory = split(good)
    bad_files += bytes(max(0, len(good_files) - len(bad_files)))
    begin = len(bad_files) + len(bad_directory)  # of the good files
    shift = len(bad_directory) + len(good_files)  # of Python's directory to the declared one
    moved = []
    place = 0
    while place < len(directory):
        length = 46 + sum(struct.unpack("<HHH", directory[place + 28 : place + 34]))
        (offset,) = struct.unpack("<I", directory[place + 42 : place + 46])
        moved.append(
            directory[place : place + 42]
            + struct.pack("<I", begin + offset - shift)
            + directory[place + 46 : place + length]
        )
        place += length
    end = good[-22:-6] + struct.pack("<IH", len(bad_files), 0)
    return sealed(bad_files + bad_directory + good_files + b"".join(moved) + end)


def split(archive: bytes) -> tuple[bytes, bytes]:
    """Return the files of an archive and its directory."""
    size, offset = struct.unpack("<II", archive[-10:-2])
    return archive[:offset], archive[offset : offset + size]


EVIL = b"\x80\x02" + call(MKDIR, NEXT) + b"."

ENVELOPES: dict[str, Callable[[Workplace], bytes]] = {
    "PyTorch's old format": old_format,
    "PyTorch's oldest format": oldest_format,
    "a pickle alone": bare_pickle,
    "an archive after a pickle": after_a_pickle,
    "TorchScript": torch_script,
    "two pickles of one name": two_pickles("a/data.pkl", "a/data.pkl"),
    "two pickles in two cases": two_pickles("a/data.pkl", "a/DATA.PKL"),
    "a pickle below the other": two_pickles("a/b/data.pkl", "a/DATA.PKL"),
    "a pickle above the other": two_pickles("a/data.pkl", "data.pkl"),
    "two directories": two_directories,
    "a compressed pickle": lambda workplace: sealed(
        zipped([Member.deflated("a/data.pkl", zlib.compress(EVIL, wbits=-15), len(EVIL))])
    ),
}


@pytest.mark.promise("hostile files")
def test_no_envelope_brings_code_past_the_checks(
    workplace: Workplace, watched: Watched, tally: Tally
) -> None:
    """Pickles in PyTorch's old formats, in TorchScript or beside a good pickle are not run."""
    found = []
    for name, write in ENVELOPES.items():
        workplace.put(write(workplace))
        for command in (EVAL, GENERATE, RESUME) if tally.full else (EVAL,):
            found += [f"{name}: {fault}" for fault in faults(watched, command)]
            tally.count("openings of such files")
        tally.count("kinds of envelopes")
    assert not found, "\n".join(found)
    tally.count("executions", 0)


@pytest.mark.promise("hostile files")
def test_the_commands_themselves_run_no_code(workplace: Workplace, tally: Tally) -> None:
    """The real commands (`eval`, `generate`, `train --resume`) refuse such files in one line."""
    body = workplace.records["data.pkl"].removesuffix(b".")
    names = list(PAYLOADS)[:: tally.amount(len(PAYLOADS), 5)]
    for name in names:
        workplace.put(workplace.pickled(PLACES["as a part"](PAYLOADS[name], body)))
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "ptb_lm", *command],
                cwd=workplace.folder,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for command in (EVAL, GENERATE, RESUME)
        ]
        for process in processes:
            out, err = process.communicate(timeout=300)
            assert (process.returncode, out) == (2, ""), err
            assert len(err.splitlines()) == 1, err
            assert err.startswith("error: "), err
            tally.count("processes")
        assert not (workplace.folder / MARKER).exists(), name
    tally.count("executions", 0)


# What a checkpoint declares.

REMEMBER, AGAIN = b"r\xff\xff\x00\x00", b"j\xff\xff\x00\x00"
BYTEARRAY = named("builtins", "bytearray")


def storage(key: str = "0", count: int = 1, kind: str = "Float") -> bytes:
    """Return the storage of a record as opcodes, of so many numbers."""
    parts = (word("storage"), named("torch", f"{kind}Storage"), word(key), word("cpu"))
    return in_tuple(*parts, number(count)) + b"Q"


def tensor(
    size: tuple[int, ...], stride: tuple[int, ...], *, offset: int = 0, **where: Any
) -> bytes:
    """Return a tensor as opcodes, whatever it declares."""
    return call(
        named("torch._utils", "_rebuild_tensor_v2"),
        storage(**where),
        number(offset),
        in_tuple(*map(number, size)),
        in_tuple(*map(number, stride)),
        b"\x89",
        call(named("collections", "OrderedDict")),
    )


def one_weight(opcodes: bytes) -> Callable[[Workplace, int], bytes]:
    """Write a checkpoint with one weight made by opcodes, in the place of the embedding."""

    def write(workplace: Workplace, scale: int) -> bytes:
        names = list(workplace.content["weights"])
        weights = {name: tensor((1,), (1,)) for name in names} | {"embedding.weight": opcodes}
        return workplace.with_part("weights", in_dict(weights))

    return write


def weights_as(change: Callable[[torch.Tensor], Any]) -> Callable[[Workplace, int], bytes]:
    """Write a checkpoint with each weight changed."""

    def write(workplace: Workplace, scale: int) -> bytes:
        weights = workplace.content["weights"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of kinds of tensors that PyTorch gives up
            return workplace.saved(weights={name: change(each) for name, each in weights.items()})

    return write


def part(**changes: Any) -> Callable[[Workplace, int], bytes]:
    return lambda workplace, scale: workplace.saved(**changes)


def opcodes_of(name: str, make: Callable[[int], bytes]) -> Callable[[Workplace, int], bytes]:
    return lambda workplace, scale: workplace.with_part(name, make(scale))


def config_of(section: str, key: str, value: Any) -> Callable[[Workplace, int], bytes]:
    return lambda workplace, scale: workplace.saved(config=workplace.config(section, key, value))


def state_of(**changes: Any) -> Callable[[Workplace, int], bytes]:
    return lambda workplace, scale: workplace.saved(state=workplace.state(**changes))


def hidden_as(change: Callable[[torch.Tensor], Any]) -> Callable[[Workplace, int], bytes]:
    def write(workplace: Workplace, scale: int) -> bytes:
        hidden = workplace.content["state"]["hidden"]
        return workplace.saved(
            state=workplace.state(hidden=[tuple(map(change, h)) for h in hidden])
        )

    return write


def random_state(value: Any) -> Callable[[Workplace, int], bytes]:
    return part(random_states={"cpu": value})


def wide_network(workplace: Workplace, scale: int) -> bytes:
    """Declare a network of 40 GB, each of whose weights repeats one number."""
    width, words = 20_000, len(workplace.content["vocabulary"])
    weights = {}
    for name, each in workplace.content["weights"].items():
        size = [width * (length // 8) if length % 8 == 0 else words for length in each.shape]
        weights[name] = torch.zeros(1).expand(size)
    return workplace.saved(
        config=workplace.config("model", "hidden_size", width), weights=weights, state=None
    )


def deep_network(workplace: Workplace, scale: int) -> bytes:
    """Declare a layer for each four of many weights that are all the same few bytes."""
    one = tensor((1,), (1,)) + REMEMBER
    first = next(iter(workplace.content["weights"]))
    names = b"".join(word(f"{index}") + AGAIN for index in range(scale // 100))
    weights = b"}(" + word(first) + one + names + b"u"
    config = workplace.config("model", "layers", scale // 400)
    changed = records_of(workplace.saved(config=config))["data.pkl"].removesuffix(b".")
    return workplace.pickled(changed + word("weights") + weights + b"s.")


def copies_of_a_dict(scale: int) -> bytes:
    pairs = in_list(*(word(chr(0x4000 + index) + "x") for index in range(20_000)))
    copy = call(named("collections", "OrderedDict"), AGAIN)
    return b"](" + pairs + REMEMBER + copy * (scale // 1000) + b"e"


class Claim(NamedTuple):
    """What a checkpoint declares, and the commands that are to refuse it."""

    write: Callable[[Workplace, int], bytes]
    commands: tuple[list[str], ...] = (EVAL,)
    refused: bool = True


HUGE = 10**6

CLAIMS = {
    # sizes of the network
    "a million hidden units": Claim(config_of("model", "hidden_size", HUGE)),
    "2**31 - 1 hidden units": Claim(config_of("model", "hidden_size", 2**31 - 1)),
    "2**70 hidden units": Claim(config_of("model", "hidden_size", 2**70)),
    "a million layers": Claim(config_of("model", "layers", HUGE)),
    "2**31 - 1 layers": Claim(config_of("model", "layers", 2**31 - 1)),
    "no layers": Claim(config_of("model", "layers", 0)),
    "weights of one number each": Claim(wide_network),
    "a layer for every name": Claim(deep_network),
    "2**31 - 1 streams in columns": Claim(
        lambda workplace, scale: workplace.saved(
            config=workplace.config("training", "batch_size", 2**31 - 1), state=None
        ),
        (COLUMNS,),
    ),
    "2**31 - 1 streams of a hidden state": Claim(
        config_of("training", "batch_size", 2**31 - 1), (EVAL, RESUME)
    ),
    # tensors
    "a storage of 10**12 numbers": Claim(one_weight(tensor((10**12,), (1,), count=10**12))),
    "a view of 10**9 numbers of one": Claim(one_weight(tensor((10**9,), (1,), count=1))),
    "a view beyond its storage": Claim(one_weight(tensor((10, 8), (8, 1), count=80, offset=80))),
    "a storage beyond its record": Claim(one_weight(tensor((10, 8), (8, 1), count=10**6))),
    "a negative size": Claim(one_weight(tensor((-10, -8), (8, 1), count=80))),
    "a negative stride": Claim(one_weight(tensor((10, 8), (-8, -1), count=80))),
    "a negative offset": Claim(one_weight(tensor((10, 8), (8, 1), count=80, offset=-80))),
    "a negative storage": Claim(one_weight(tensor((10, 8), (8, 1), count=-80))),
    "sizes whose product overflows": Claim(one_weight(tensor((2**32, 2**32), (0, 0)))),
    "sizes beyond 64 bits": Claim(one_weight(tensor((2**100,), (1,), count=2**100))),
    "a million dimensions": Claim(
        lambda workplace, scale: one_weight(tensor((1,) * scale, (1,) * scale))(workplace, scale)
    ),
    "a storage without a record": Claim(one_weight(tensor((1,), (1,), key="../../note.txt"))),
    "a storage of another archive": Claim(one_weight(tensor((1,), (1,), key="../version"))),
    "weights that share one storage": Claim(
        lambda workplace, scale: workplace.with_part(
            "weights",
            in_dict(
                {
                    name: tensor(tuple(each.shape), (0,) * each.dim(), key="1", count=256)
                    for name, each in workplace.content["weights"].items()
                }
            ),
        ),
        refused=False,
    ),
    "integer weights": Claim(weights_as(lambda each: each.to(torch.int32))),
    "complex weights": Claim(weights_as(lambda each: each.to(torch.complex64))),
    "boolean weights": Claim(weights_as(lambda each: each > 0)),
    "bfloat16 weights": Claim(weights_as(lambda each: each.to(torch.bfloat16))),
    "quantised weights": Claim(
        weights_as(lambda each: torch.quantize_per_tensor(each, 0.1, 0, torch.qint8))
    ),
    "sparse weights": Claim(weights_as(lambda each: each.to_sparse())),
    "compressed sparse weights": Claim(
        weights_as(lambda each: each.to_sparse_csr() if each.dim() == 2 else each)
    ),
    "weights without memory": Claim(weights_as(lambda each: each.to("meta"))),
    "weights that are parameters": Claim(weights_as(torch.nn.Parameter)),
    "weights that are lists": Claim(weights_as(lambda each: each.tolist())),
    "weights that are numbers": Claim(weights_as(lambda each: 1.0)),
    "double weights": Claim(weights_as(lambda each: each.double()), refused=False),
    "weights turned round": Claim(weights_as(lambda each: each.t())),
    "no weights": Claim(part(weights={})),
    # hidden state and random numbers
    "a hidden state of other widths": Claim(hidden_as(lambda each: each[:, :3]), (EVAL, RESUME)),
    "a hidden state of more streams": Claim(hidden_as(lambda each: each.repeat(9, 1)), (EVAL,)),
    "a hidden state of doubles": Claim(
        hidden_as(lambda each: each.double()), (RESUME,), refused=False
    ),
    "a hidden state of integers": Claim(hidden_as(lambda each: each.byte()), (EVAL, RESUME)),
    "a hidden state of numbers": Claim(hidden_as(lambda each: 1.0), (EVAL,)),
    "a hidden state of three dimensions": Claim(hidden_as(lambda each: each[None]), (EVAL,)),
    "a hidden state of no layer": Claim(state_of(hidden=[])),
    "a hidden state of many layers": Claim(
        lambda workplace, scale: state_of(hidden=workplace.content["state"]["hidden"] * 99)(
            workplace, scale
        )
    ),
    "a random state too short": Claim(random_state(torch.zeros(10, dtype=torch.uint8))),
    "a random state too long": Claim(random_state(torch.zeros(6000, dtype=torch.uint8))),
    "a random state of zeros": Claim(random_state(torch.zeros(5056, dtype=torch.uint8))),
    "a random state of floats": Claim(random_state(torch.zeros(5056))),
    "a random state of one byte": Claim(
        random_state(torch.zeros(1, dtype=torch.uint8).expand(5056))
    ),
    "a random state of 10**12 bytes": Claim(
        random_state(torch.zeros(1, dtype=torch.uint8).expand(10**12))
    ),
    "no random state": Claim(part(random_states={})),
    # where it stands
    "an epoch of 2**31 windows": Claim(state_of(windows_done=2**31), (RESUME,)),
    "an epoch of 2**1000 windows": Claim(state_of(windows_done=2**1000), (RESUME,)),
    "less than no window": Claim(state_of(windows_done=-1)),
    "2**1000 epochs": Claim(state_of(epochs_done=2**1000), (RESUME,)),
    "an epoch all but validated that counts nothing": Claim(
        lambda workplace, scale: workplace.saved(
            state=workplace.state(
                epochs_done=1, windows_done=25, targets=0, nll_sum=0.0, epoch_seconds=0.0
            )
        ),
        (RESUME,),
        refused=False,
    ),
    "an endless NLL": Claim(
        state_of(epochs_done=1, windows_done=3, nll_sum=1e308), (RESUME,), refused=False
    ),
    "a state of another kind": Claim(part(state=[1, 2, 3])),
    "a state with more in it": Claim(state_of(more=1)),
    # words
    "the same word over and over": Claim(
        opcodes_of("vocabulary", lambda scale: b"](" + word("w") + REMEMBER + AGAIN * scale + b"e")
    ),
    "words that are numbers": Claim(
        opcodes_of("vocabulary", lambda scale: b"](" + b"K\x01" * scale + b"e")
    ),
    "words that are halves of characters": Claim(
        opcodes_of("vocabulary", lambda scale: in_list(*map(word, ("<unk>", "<eos>", "\ud800"))))
    ),
    "words in a dictionary": Claim(part(vocabulary={"<unk>": 0, "<eos>": 1})),
    "no words": Claim(part(vocabulary=[])),
    "a list of lists": Claim(opcodes_of("extra", lambda scale: b"](" + b"]" * scale + b"e")),
    "a list of dictionaries": Claim(opcodes_of("extra", lambda scale: b"](" + b"}" * scale + b"e")),
    "a list of tuples": Claim(
        opcodes_of("extra", lambda scale: b"](" + b"K\x01\x85" * scale + b"e")
    ),
    "a list of tensors": Claim(
        opcodes_of("extra", lambda scale: b"](" + tensor((1,), (1,)) * (scale // 100) + b"e")
    ),
    "names of nothing": Claim(
        opcodes_of(
            "weights",
            lambda scale: in_dict({str(index): b"N" for index in range(scale)}),
        )
    ),
    "a tuple in a tuple, and so on": Claim(
        opcodes_of("extra", lambda scale: b"N" + b"\x85" * scale)
    ),
    "a list in a list, and so on": Claim(
        opcodes_of("extra", lambda scale: b"]" * scale + b"a" * (scale - 1))
    ),
    "a deep tuple as a name": Claim(
        opcodes_of("extra", lambda scale: in_dict({}) + b"N" + b"\x85" * scale + b"Ns")
    ),
    "a dictionary copied over and over": Claim(opcodes_of("extra", copies_of_a_dict)),
    # what PyTorch itself would call
    "a bytearray": Claim(opcodes_of("extra", lambda scale: call(BYTEARRAY, number(6 * 10**8)))),
    "bytearrays": Claim(
        opcodes_of("extra", lambda scale: in_list(*[call(BYTEARRAY, number(10**8))] * 6))
    ),
    "a set of a range": Claim(
        opcodes_of(
            "extra", lambda scale: call(named("builtins", "set"), call(BYTEARRAY, number(10**8)))
        )
    ),
    "a tensor of 10**9 numbers": Claim(
        opcodes_of("extra", lambda scale: call(named("torch", "Tensor"), number(10**9)))
    ),
    "a storage of 10**9 bytes": Claim(
        opcodes_of(
            "extra",
            lambda scale: call(named("torch.storage", "UntypedStorage"), number(6 * 10**8)),
        )
    ),
    "a counter": Claim(
        opcodes_of(
            "extra",
            lambda scale: call(named("collections", "Counter"), call(BYTEARRAY, number(10**8))),
        )
    ),
    "a sparse tensor": Claim(
        opcodes_of(
            "extra",
            lambda scale: call(
                named("torch._utils", "_rebuild_sparse_tensor"),
                named("torch", "sparse_coo"),
                in_tuple(tensor((1, 1), (1, 1)), tensor((1,), (1,)), in_tuple(number(10**9))),
            ),
        )
    ),
    "a wrapped tensor": Claim(
        opcodes_of(
            "extra",
            lambda scale: call(
                named("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"),
                tensor((10**9,), (0,)),
                named("torch", "float64"),
                word("cpu"),
                b"\x89",
            ),
        )
    ),
    "a tensor set anew": Claim(
        opcodes_of(
            "extra",
            lambda scale: (
                tensor((1,), (1,))
                + in_tuple(storage(), number(0), in_tuple(number(10**9)), in_tuple(number(1)))
                + b"b"
            ),
        )
    ),
    # the rest
    "a format that is a tensor": Claim(part(format=torch.ones(3))),
    "a format of two lines": Claim(part(format="2\nerror: 3")),
    "a format of a million letters": Claim(part(format="2" * HUGE)),
    "a data folder with a name too long": Claim(
        config_of("run", "data", "folder" * 1000), (OWN_DATA,)
    ),
    "a data folder with a name of two lines": Claim(
        config_of("run", "data", "a\nerror: b"), (OWN_DATA,)
    ),
    "a data folder with a name for terminals": Claim(
        config_of("run", "data", "\x1b]0;title\x07"), (OWN_DATA,)
    ),
}


@pytest.mark.promise("hostile files")
def test_what_a_checkpoint_declares_takes_no_memory(
    workplace: Workplace, watched: Watched, tally: Tally
) -> None:
    """Checkpoints that declare huge or senseless parts are refused within 200 MB above idle."""
    found = []
    scale = tally.amount(1_000_000, 10_000_000)
    for name, claim in CLAIMS.items():
        workplace.put(claim.write(workplace, scale))
        for command in claim.commands:
            faulty = faults(watched, command, refused=claim.refused)
            found += [f"{name}: {fault}" for fault in faulty]
            tally.count("openings of such checkpoints")
        tally.count("kinds of false declarations")
    assert not found, "\n".join(found)


# Score files.


def npy(header: str, data: bytes = b"", version: int = 1) -> bytes:
    """Return an array's file with any header whatever."""
    text = header.encode("utf-8") + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + data


def floats(
    shape: str, data: bytes = bytes(400), descr: str = "'<f4'", order: str = "False"
) -> bytes:
    return npy(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}", data)


def text_array(text: str | bytes) -> bytes:
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return floats(f"({len(data)},)", data, descr="'|u1'")


DESCRIPTION = {
    "format": 1,
    "split": "test",
    "protocol": "stream",
    "streams": 1,
    "text_sha256": "0" * 64,
    "vocabulary_size": 10,
}
LOG_PROBABILITIES = floats("(100,)", np.full(100, -1, "<f4").tobytes())


def score_file(
    description: bytes | None = None, scores: bytes | None = None, **changes: Any
) -> bytes:
    """Return a score file with one or the other array, or keys of the description, changed."""
    text = json.dumps({**DESCRIPTION, **changes}, allow_nan=True)
    arrays = [
        Member("log_probabilities.npy", scores or LOG_PROBABILITIES),
        Member("description.npy", description or text_array(text)),
    ]
    return zipped(arrays)


def arrays_of(*members: Member) -> bytes:
    """Return a score file in which members of an archive take the place of the arrays' own."""
    good = {
        "log_probabilities.npy": Member("log_probabilities.npy", LOG_PROBABILITIES),
        "description.npy": Member("description.npy", text_array(json.dumps(DESCRIPTION))),
    }
    replaced = {member.name for member in members}
    return zipped([*(good[name] for name in good if name not in replaced), *members])


def bomb(name: str, size: int, declared: int) -> bytes:
    """Return a score file with an array that unpacks to so many zeros after its header."""
    kind = "'|u1'" if name == "description" else "'<f4'"
    count = declared if name == "description" else declared // 4
    header = floats(f"({count},)", b"", descr=kind)
    begin = zlib.compressobj(9, wbits=-15)
    packed_header = begin.compress(header) + begin.flush(zlib.Z_FULL_FLUSH)
    return arrays_of(
        Member.deflated(f"{name}.npy", packed_header + zeros(size), declared + len(header))
    )


@cache
def compressed(method: int, size: int) -> bytes:
    """Return an array of zeros as a member of a zip archive has it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        info = zipfile.ZipInfo("x")
        info.compress_type = method
        archive.writestr(info, floats(f"({size // 4},)", bytes(size)))
    return buffer.getvalue()[31 : 31 + info.compress_size]


def pickled_array(name: str) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Intruder()], dtype=object), allow_pickle=True)
    return arrays_of(Member(f"{name}.npy", buffer.getvalue()))


def flagged(data: bytes, flag: int) -> bytes:
    members = [Member("log_probabilities.npy", data, flags=flag)]
    return arrays_of(*members)


GB = 10**9


def listed_by_zip64(archive: bytes) -> bytes:
    """Return an archive that has its list in a zip64 record, of which the end says otherwise."""
    _, _, _, count, _, size, at, _ = struct.unpack("<4sHHHHIIH", archive[-22:])
    record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, at)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, at + size, 1)
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 2, 2, 100, at, 0)
    return archive[:-22] + record + locator + end


SCORE_FILES: dict[str, Callable[[int], bytes]] = {
    # code
    "pickled scores": lambda size: pickled_array("log_probabilities"),
    "a pickled description": lambda size: pickled_array("description"),
    "a pickle in an archive": lambda size: arrays_of(Member("description.npy", EVIL)),
    "a pickle": lambda size: EVIL,
    "a pickle before an archive": lambda size: EVIL + score_file(),
    "a type that is code": lambda size: score_file(
        scores=floats("(100,)", descr=f"__import__('os').mkdir({MARKER!r})")
    ),
    "a shape that is code": lambda size: score_file(
        scores=floats(f"(__import__('os').mkdir({MARKER!r}),)")
    ),
    "a header that is code": lambda size: score_file(
        scores=npy(f"[{{}} for _ in [__import__('os').mkdir({MARKER!r})]][0]")
    ),
    "a description that is code": lambda size: score_file(
        text_array(f"__import__('os').mkdir({MARKER!r})")
    ),
    # sizes
    "scores that unpack to much": lambda size: bomb("log_probabilities", size, size),
    "a description that unpacks to much": lambda size: bomb("description", size, size),
    "scores that hide what they unpack to": lambda size: bomb("log_probabilities", size, 10**6),
    "a description that hides what it unpacks to": lambda size: bomb("description", size, 10**6),
    "scores that declare 4 GB": lambda size: score_file(scores=floats(f"({GB},)")),
    "scores that declare 4 TB": lambda size: score_file(scores=floats(f"({GB}000,)")),
    "scores that declare 2**64 bytes": lambda size: score_file(scores=floats(f"({2**62},)")),
    "scores that declare a size beyond numbers": lambda size: score_file(
        scores=floats(f"({10**300},)")
    ),
    "scores that declare less than nothing": lambda size: score_file(scores=floats("(-1,)")),
    "scores of two negative sizes": lambda size: score_file(scores=floats("(-10, -10)")),
    "a description that declares 4 TB": lambda size: score_file(
        floats(f"({GB}000,)", descr="'|u1'")
    ),
    "a number of 10**9 bytes": lambda size: score_file(scores=floats("(1,)", descr=f"'|V{GB}'")),
    "texts of 10**9 letters": lambda size: score_file(scores=floats("(1,)", descr=f"'<U{GB}'")),
    "a header that declares 4 GB": lambda size: score_file(
        scores=b"\x93NUMPY\2\0" + struct.pack("<I", 2**32 - 1) + b"{"
    ),
    "a header of a million letters": lambda size: score_file(
        scores=npy("{" + " " * 10**6 + "}", version=2)
    ),
    "a member that declares 10 GB": lambda size: arrays_of(
        Member("log_probabilities.npy", LOG_PROBABILITIES, size=10 * GB)
    ),
    "an array before an archive": lambda size: floats(f"({GB},)") + score_file(),
    "an array that is no archive": lambda size: floats(f"({GB},)"),
    "many members": lambda size: zipped(
        Member(f"{index}.npy", b"") for index in range(size // 50_000)
    ),
    "members one upon another": lambda size: arrays_of(
        *(Member(f"{index}.npy", b"", local=0) for index in range(1000))
    ),
    "a long list behind a short one": lambda size: listed_by_zip64(
        arrays_of(*(Member(f"{index}.npy", b"") for index in range(1000)))
    ),
    "two members of a name": lambda size: zipped(
        [Member("log_probabilities.npy", LOG_PROBABILITIES)] * 2
        + [Member("description.npy", text_array("null"))] * 2
    ),
    # headers
    "a header nested deep": lambda size: score_file(scores=npy("(" * 4000 + ")" * 4000)),
    "a header of many signs": lambda size: score_file(scores=npy("-" * 9000 + "1")),
    "a header of many attributes": lambda size: score_file(scores=npy("a" + ".a" * 4500)),
    "a header that is a list": lambda size: score_file(scores=npy("[1, 2]")),
    "a header with a NUL": lambda size: score_file(scores=npy("\0")),
    "a header of another version": lambda size: score_file(scores=npy("{}", version=9)),
    "no header": lambda size: score_file(scores=b"\x93NUM"),
    # kinds of numbers
    "scores in doubles": lambda size: score_file(scores=floats("(50,)", descr="'<f8'")),
    "scores in big-endian floats": lambda size: score_file(scores=floats("(100,)", descr="'>f4'")),
    "scores that are texts": lambda size: score_file(scores=floats("(100,)", descr="'<U1'")),
    "scores that are objects": lambda size: score_file(scores=floats("(100,)", descr="'|O'")),
    "scores that are records": lambda size: score_file(
        scores=floats("(100,)", descr="[('a', '<f4')]")
    ),
    "scores that are dates": lambda size: score_file(scores=floats("(50,)", descr="'<M8[s]'")),
    "scores of two dimensions": lambda size: score_file(scores=floats("(10, 10)")),
    "scores of no dimension": lambda size: score_file(scores=floats("()")),
    "no scores": lambda size: score_file(scores=floats("(0,)")),
    "scores of a million dimensions": lambda size: score_file(scores=floats("(1,) * 1000000")),
    "scores with a NaN": lambda size: score_file(
        scores=floats("(100,)", np.full(100, np.nan, "<f4").tobytes())
    ),
    "scores above zero": lambda size: score_file(
        scores=floats("(100,)", np.full(100, 1, "<f4").tobytes())
    ),
    "scores without end": lambda size: score_file(
        scores=floats("(100,)", np.full(100, np.inf, "<f4").tobytes())
    ),
    # descriptions
    "JSON nested deep": lambda size: score_file(text_array("[" * 100_000 + "]" * 100_000)),
    "JSON objects nested deep": lambda size: score_file(text_array('{"a":' * 100_000)),
    "a number of 100,000 digits": lambda size: score_file(text_array("1" * 100_000)),
    "no JSON": lambda size: score_file(text_array("{")),
    "JSON in UTF-16": lambda size: score_file(
        text_array(json.dumps(DESCRIPTION).encode("utf-16")[:-1])
    ),
    "JSON that is not UTF-8": lambda size: score_file(text_array(b'{"format": "\xff"}')),
    "a list": lambda size: score_file(text_array("[1]")),
    "null": lambda size: score_file(text_array("null")),
    "a description of floats": lambda size: score_file(LOG_PROBABILITIES),
    "no format": lambda size: score_file(text_array("{}")),
    "a format that is a list": lambda size: score_file(format=[1]),
    "a format of two lines": lambda size: score_file(format="1\nerror: 2"),
    "a format of a million letters": lambda size: score_file(format="1" * 10**6),
    "a format of 4,000 digits": lambda size: score_file(format=10**3999),
    "a split that is a number": lambda size: score_file(split=1),
    "a split that is a list": lambda size: score_file(split=["test"]),
    "a protocol that is null": lambda size: score_file(protocol=None),
    "a protocol that is none": lambda size: score_file(protocol="rows"),
    "streams that are text": lambda size: score_file(streams="many"),
    "streams that are true": lambda size: score_file(streams=True),
    "streams that are not a number": lambda size: score_file(streams=float("nan")),
    "no streams": lambda size: score_file(streams=0),
    "half a stream": lambda size: score_file(streams=0.5),
    "a hash that is a number": lambda size: score_file(text_sha256=0),
    "a vocabulary that is an object": lambda size: score_file(vocabulary_size={}),
    "a vocabulary without end": lambda size: score_file(vocabulary_size=float("inf")),
    "more than there is": lambda size: score_file(more=1),
    # the archive
    "an encrypted member": lambda size: flagged(LOG_PROBABILITIES, 1),
    "a patched member": lambda size: flagged(LOG_PROBABILITIES, 0x20),
    "a member by bzip2 that hides what it unpacks to": lambda size: arrays_of(
        Member(
            "log_probabilities.npy",
            compressed(zipfile.ZIP_BZIP2, size // 33),
            zipfile.ZIP_BZIP2,
            10**6,
        )
    ),
    "a member by LZMA that hides what it unpacks to": lambda size: arrays_of(
        Member(
            "log_probabilities.npy",
            compressed(zipfile.ZIP_LZMA, size // 33),
            zipfile.ZIP_LZMA,
            10**6,
        )
    ),
    "a member by no method": lambda size: arrays_of(
        Member("log_probabilities.npy", LOG_PROBABILITIES, 99)
    ),
    "members without an ending": lambda size: zipped(
        [Member("log_probabilities", LOG_PROBABILITIES), Member("description", b"{}")]
    ),
    "a directory of a million bytes": lambda size: zipped([], directory_at=10**6),
    "an empty archive": lambda size: zipped([]),
}

GOOD_IN_EFFECT = {
    "a pickle before an archive",  # of which the archive alone is read
    "an array before an archive",
}


@pytest.mark.promise("hostile files")
def test_a_score_file_runs_no_code_and_takes_no_memory(
    workplace: Workplace, watched: Watched, tally: Tally
) -> None:
    """Score files with pickles, code in headers, bombs or false types are refused in one line."""
    found = []
    (workplace.folder / "bad.npz").write_bytes(score_file())
    assert watched.run(*AVERAGE).code == 0  # so that what is refused is what was changed
    for name, write in SCORE_FILES.items():
        (workplace.folder / "bad.npz").write_bytes(write(tally.amount(GB // 3, 10 * GB)))
        refused = name not in GOOD_IN_EFFECT
        for command in (AVERAGE, [*AVERAGE, SCORES])[: tally.amount(1, 2)]:
            found += [f"{name}: {fault}" for fault in faults(watched, command, refused=refused)]
            tally.count("openings of hostile score files")
        tally.count("kinds of them")
    assert not found, "\n".join(found)
    tally.count("executions", 0)


# Archives.


def tar_header(
    name: str = "data/ptb.train.txt", size: int = 0, kind: bytes = b"0", link: str = ""
) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)  # type: ignore[attr-defined]
    return checked(bytes(header[-512:]))


def checked(header: bytes) -> bytes:
    """Return a tar header with the checksum that it has."""
    blank = header[:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(blank) + header[156:]


def block(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(values: dict[str, str], kind: bytes = b"x") -> bytes:
    body = b""
    for key, value in values.items():
        line = f" {key}={value}\n".encode()
        length = len(line) + len(str(len(line)))
        body += str(length + (len(str(length)) > len(str(len(line))))).encode() + line
    return tar_header("pax", len(body), kind) + block(body)


def gzipped(*pieces: bytes | int) -> bytes:
    """Return a gzip file of bytes, and of so many zeros where a piece is a number."""
    parts = [b"\x1f\x8b\x08\0\0\0\0\0\0\xff"]
    for piece in pieces:
        if isinstance(piece, int):
            packer = zlib.compressobj(9, wbits=-15)
            unit = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
            parts.append(unit * (piece >> 20))
        else:
            packer = zlib.compressobj(9, wbits=-15)
            parts.append(packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH))
    return b"".join([*parts, b"\3\0", bytes(8)])


def in_tar(*pieces: bytes) -> bytes:
    return b"".join(pieces) + bytes(1024)


def member_of_tar(name: str, data: bytes = b"a b c\n", **how: Any) -> bytes:
    return tar_header(name, len(data), **how) + block(data)


TRAIN = "ptb.train.txt"
WAYS_OUT = {
    "above": f"../{TRAIN}",
    "far above": f"../../../{TRAIN}",
    "above in the midst": f"data/../../{TRAIN}",
    "by backslashes": f"..\\..\\{TRAIN}",
    "by a drive": f"C:\\{TRAIN}",
    "by two slashes": f"//{TRAIN}",
    "at home": f"~/{TRAIN}",
}
SPECIAL = {
    "a symbolic link": (tarfile.SYMTYPE, "../../note.txt"),
    "a symbolic link out": (tarfile.SYMTYPE, "/etc/passwd"),
    "a hard link": (tarfile.LNKTYPE, "../../note.txt"),
    "a character device": (tarfile.CHRTYPE, ""),
    "a block device": (tarfile.BLKTYPE, ""),
    "a FIFO": (tarfile.FIFOTYPE, ""),
    "a folder": (tarfile.DIRTYPE, ""),
    "a contiguous file": (tarfile.CONTTYPE, ""),
    "a kind of no kind": (b"Z", ""),
}


def sparse_header(entries: list[tuple[int, int]], real: int, *, more: bool = False) -> bytes:
    header = bytearray(tar_header(size=0, kind=tarfile.GNUTYPE_SPARSE))
    for index, (offset, size) in enumerate(entries[:4]):
        header[386 + 24 * index : 410 + 24 * index] = b"%011o\0%011o\0" % (offset, size)
    header[482] = more
    header[483:495] = tarfile.itn(real, 12, tarfile.GNU_FORMAT)  # type: ignore[attr-defined]
    return checked(bytes(header))


def linked_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo(TRAIN)
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "../../note.txt")
    return buffer.getvalue()


def many(count: int) -> bytes:
    """Return a tar.gz of so many members."""
    packer = zlib.compressobj(9, wbits=-15)
    some = b"".join(tar_header(f"{index}.txt") for index in range(1000))
    unit = packer.compress(some) + packer.flush(zlib.Z_FULL_FLUSH)
    return gzipped()[:10] + unit * (count // 1000) + b"\3\0" + bytes(8)


ARCHIVES: dict[str, tuple[str, Callable[[int], bytes]]] = {
    **{
        f"{kind}: {way}": (f"x{ending}", write)
        for way, name in WAYS_OUT.items()
        for kind, ending, write in (
            ("tar", ".tar.gz", lambda size, name=name: gzip.compress(in_tar(member_of_tar(name)))),
            ("zip", ".zip", lambda size, name=name: zipped([Member(name, b"a b c\n")])),
        )
    },
    **{
        name: (
            "x.tgz",
            lambda size, kind=kind, link=link: gzip.compress(
                in_tar(tar_header(kind=kind, link=link), member_of_tar("data/ptb.valid.txt"))
            ),
        )
        for name, (kind, link) in SPECIAL.items()
    },
    "a link in a zip": ("x.zip", lambda size: linked_zip()),
    "a link, then a file through it": (
        "x.tar",
        lambda size: in_tar(
            tar_header("out", kind=tarfile.SYMTYPE, link=".."), member_of_tar(f"out/{TRAIN}")
        ),
    ),
    # headers of tar
    "a member of 10 GB": ("x.tgz", lambda size: gzipped(tar_header(size=size), size)),
    "another member of 10 GB": ("x.tgz", lambda size: gzipped(tar_header("big", size), size)),
    "a pax header of 1 GB": ("x.tgz", lambda size: gzipped(tar_header("p", GB, b"x"), GB)),
    "a global pax header of 1 GB": ("x.tgz", lambda size: gzipped(tar_header("p", GB, b"g"), GB)),
    "a name of 1 GB": ("x.tgz", lambda size: gzipped(tar_header("n", GB, b"L"), GB)),
    "a link's name of 1 GB": ("x.tgz", lambda size: gzipped(tar_header("n", GB, b"K"), GB)),
    "Solaris' header of 1 GB": ("x.tgz", lambda size: gzipped(tar_header("n", GB, b"X"), GB)),
    "thousands of pax headers": ("x.tgz", lambda size: gzip.compress(pax({"a": "b"}) * 5000)),
    "thousands of global headers": (
        "x.tgz",
        lambda size: gzip.compress(
            b"".join(pax({f"k{index}": "v" * 900}, b"g") for index in range(size // 10**6))
        ),
    ),
    "thousands of long names": (
        "x.tgz",
        lambda size: gzip.compress(member_of_tar("n", b"name\0", kind=b"L") * 5000),
    ),
    "a negative size": ("x.tar", lambda size: in_tar(tar_header(size=-1024), bytes(2048))),
    "a size of 2**60": ("x.tar", lambda size: in_tar(tar_header(size=2**60))),
    "a pax size that is negative": (
        "x.tar",
        lambda size: in_tar(pax({"size": "-512"}), member_of_tar(TRAIN)),
    ),
    "a pax size of 4,000 digits": (
        "x.tar",
        lambda size: in_tar(pax({"size": "9" * 4000}), member_of_tar(TRAIN)),
    ),
    "a pax size of 5,000 digits": (
        "x.tar",
        lambda size: in_tar(pax({"size": "9" * 5000}), member_of_tar(TRAIN)),
    ),
    "a pax name with a NUL": (
        "x.tar",
        lambda size: in_tar(pax({"path": "a\0b"}), member_of_tar(TRAIN)),
    ),
    "a pax line of no length": (
        "x.tar",
        lambda size: in_tar(member_of_tar("p", b"0 a=b\n", kind=b"x")),
    ),
    "a pax time without end": ("x.tar", lambda size: in_tar(pax({"mtime": "inf"}), tar_header())),
    "a sparse file of 8 GB": (
        "x.tar",
        lambda size: in_tar(sparse_header([(0, 0), (8 * GB, 0)], 8 * GB)),
    ),
    "a sparse file of senseless pieces": (
        "x.tar",
        lambda size: in_tar(sparse_header([(GB, GB), (5, GB), (0, 1)], 8 * GB)),
    ),
    "a sparse file of endless pieces": (
        "x.tgz",
        lambda size: gzipped(sparse_header([(0, 1)] * 4, GB, more=True), b"\1" * 512 * 5000),
    ),
    "a sparse file by pax": (
        "x.tar",
        lambda size: in_tar(
            pax({"GNU.sparse.map": "0,0," + str(8 * GB) + ",0", "GNU.sparse.size": str(8 * GB)}),
            member_of_tar(TRAIN),
        ),
    ),
    "a sparse file by pax, version 1": (
        "x.tgz",
        lambda size: gzip.compress(
            in_tar(
                pax(
                    {
                        "GNU.sparse.major": "1",
                        "GNU.sparse.minor": "0",
                        "GNU.sparse.realsize": "9" * 12,
                    }
                ),
                member_of_tar(TRAIN, b"99999999999\n" + b"1\n" * 10**6),
            )
        ),
    ),
    "many members in a tar": ("x.tgz", lambda size: many(size // 25_000)),
    # compressions
    "zeros by gzip": ("x.tgz", lambda size: gzipped(size)),
    "gzip in gzip": ("x.tgz", lambda size: gzip.compress(gzipped(size), 1)),
    "zeros by bzip2": ("x.tgz", lambda size: b"BZh9" + bytes(10**6)),
    "gzip without an end": ("x.tgz", lambda size: gzipped(tar_header(size=100))[:-12]),
    "many gzip files in one": ("x.tgz", lambda size: gzip.compress(b"") * 50_000),
    "a gzip name of 10 MB": (
        "x.tgz",
        lambda size: b"\x1f\x8b\x08\x08\0\0\0\0\0\xff" + b"n" * (size // 1000),
    ),
    "an archive of 60 MB": ("x.zip", lambda size: bytes(60_000_000)),
    # zip
    "a zipped member of 10 GB": (
        "x.zip",
        lambda size: zipped([Member.deflated(TRAIN, zeros(size), size)]),
    ),
    "a zipped member that hides its size": (
        "x.zip",
        lambda size: zipped([Member.deflated(TRAIN, zeros(size), 100)]),
    ),
    "a stored member that declares 10 GB": (
        "x.zip",
        lambda size: zipped([Member(TRAIN, b"a b c\n", size=10 * GB)]),
    ),
    "a zipped member by bzip2": (
        "x.zip",
        lambda size: zipped(
            [Member(TRAIN, compressed(zipfile.ZIP_BZIP2, size // 33), zipfile.ZIP_BZIP2, GB)]
        ),
    ),
    "a zipped member by LZMA": (
        "x.zip",
        lambda size: zipped(
            [Member(TRAIN, compressed(zipfile.ZIP_LZMA, size // 33), zipfile.ZIP_LZMA, GB)]
        ),
    ),
    "a zipped member by deflate64": ("x.zip", lambda size: zipped([Member(TRAIN, b"", 9, GB)])),
    "many entries in a zip": (
        "x.zip",
        lambda size: zipped(Member(str(index), b"", local=0) for index in range(size // 11_111)),
    ),
    "entries one upon another": (
        "x.zip",
        lambda size: zipped(
            [
                Member.deflated(TRAIN, zeros(10**7), 10**7),
                *(replace(Member.deflated(TRAIN, zeros(10**7), 10**7), local=0) for _ in range(19)),
            ]
        ),
    ),
    "an encrypted entry": ("x.zip", lambda size: zipped([Member(TRAIN, b"x" * 99, flags=1)])),
    "a directory elsewhere": ("x.zip", lambda size: zipped([Member(TRAIN, b"x")], 2**31)),
    "sizes in 64 bits that lie": (
        "x.zip",
        lambda size: zipped([Member(TRAIN, b"x", size=2**63 - 1)]),
    ),
    "sizes in 64 bits that are missing": (
        "x.zip",
        lambda size: zipped([Member(TRAIN, b"x", size=2**32)]).replace(
            b"\1\0\x08\0", b"\2\0\x08\0"
        ),
    ),
    "a name for terminals": (
        "x.zip",
        lambda size: zipped([Member(f"\x1b]0;title\x07\n/{TRAIN}", b"x")]),
    ),
    "a name of 60,000 letters": (
        "x.zip",
        lambda size: zipped([Member(f"{'n' * 60_000}/{TRAIN}", b"x")]),
    ),
}


@pytest.mark.promise("hostile files")
def test_an_archive_writes_nothing_outside_and_takes_no_memory(
    workplace: Workplace, watched: Watched, tally: Tally
) -> None:
    """Archives with ways out, links, devices, false sizes or bombs are refused, writing nothing."""
    outside = workplace.folder.parent
    box = workplace.folder / "box"
    box.mkdir(exist_ok=True)
    found = []
    for name, (file, write) in ARCHIVES.items():
        path = box / file
        path.write_bytes(write(tally.amount(GB // 3, 10 * GB)))
        before = everything(outside)
        command = ["data", "fetch", "--from", f"box/{file}", "--data-dir", "store/inner"]
        found += [f"{name}: {fault}" for fault in faults(watched, command)]
        if everything(outside) != before:
            found.append(f"{name}: something was written")
        path.unlink()
        tally.count("kinds of hostile archives")
    assert not found, "\n".join(found)
    tally.count("files written", 0)


def everything(folder: Path) -> set[tuple[str, int, int]]:
    """Return each path below a folder with its size and when it was changed."""
    return {
        (str(path), path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")
    }


# The code.

MODULES = {"pickle", "cPickle", "_pickle", "shelve", "marshal", "dill", "joblib", "cloudpickle"}
CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "tempfile.mktemp"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.jit.load", "torch.hub.load"),
    *("shutil.unpack_archive", "torch.serialization.add_safe_globals", "np.fromregex"),
}
NAMES = {"load", "mktemp", "system", "popen"}
METHODS = {"extractall", "extract", "read_pickle", "set_default_load"}
NEEDED = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}


def dangers(source: str) -> list[str]:
    """List what code does that a file of a stranger's could make use of."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if root_of(alias.name) in MODULES]
        elif isinstance(node, ast.ImportFrom):
            names = {root_of(node.module or ""), *(alias.name for alias in node.names)}
            # Our own `load` reads what is checked; those of others are the ones to look at.
            calls = set() if root_of(node.module or "") == "ptb_lm" else NAMES
            found += sorted(names & (MODULES | calls))
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if name in CALLS or name.rpartition(".")[2] in METHODS:
                found.append(name)
            if name in NEEDED and given.get(NEEDED[name][0]) != str(NEEDED[name][1]):
                found.append(f"{name} without {NEEDED[name][0]}={NEEDED[name][1]}")
            found += [f"{name} with {key}" for key in ("shell", "verify") if key in given]
            if given.get("allow_pickle") not in (None, "False"):
                found.append(f"{name} with allow_pickle")
            if given.get("weights_only") not in (None, "True"):
                found.append(f"{name} without weights_only")
    return found


def root_of(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.promise("hostile files")
def test_the_code_opens_no_file_in_a_way_that_runs_code(tally: Tally) -> None:
    """No code unpickles, evaluates or extracts: a lint over every module."""
    found = []
    for path in sorted([*(ROOT / "ptb_lm").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]):
        found += [f"{path.relative_to(ROOT)}: {danger}" for danger in dangers(path.read_text())]
        tally.count("modules read")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=trusted)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "import pickle",
        "import torch, marshal",
        "from pickle import loads",
        "from torch import load",
        "import joblib.numpy_pickle",
        "eval(text)",
        "exec(text)",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
        "archive.extractall(folder)",
        "archive.extract(name)",
        "yaml.load(text)",
        "requests.get(url, verify=False)",
        "tempfile.mktemp()",
    ],
)
def test_the_lint_finds_what_it_looks_for(line: str) -> None:
    assert dangers(line)
