"""Inputs made at random: the program succeeds, or says in one line what is wrong.

Each input comes from a seed of its own, which a failure names. The commands run in a process apart,
so that an input that kills or hangs the interpreter is found like any other. Good files are the
start of most: they are damaged, taken apart and put together again with a right seal, checksum or
compression, so that what is inside is reached.
"""

import gzip
import io
import json
import pickletools
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_support import done, furnish, train_arguments
from hostile import (
    NUMBERS,
    Member,
    Watched,
    in_dict,
    mutated,
    number,
    packed,
    records_of,
    resealed,
    sealed,
    word,
    zipped,
)
from promises import Tally

PART, SCORES = "runs/part", "runs/a/scores-test.npz"
EVAL = ["eval", "fuzz.pt", "--text", "note.txt"]
RESUME = ["train", "--resume", "--run-dir", "runs/fuzz"]

USUAL = [
    ["eval", f"{PART}/last.pt", "--text", "note.txt", "--protocol", "columns"],
    ["generate", f"{PART}/last.pt", "--words", "3"],
    ["train", "--resume", "--run-dir", "runs/usual"],
    ["average", SCORES],
    ["data", "info", "--data", "text"],
]

MOST_SHOWN = 5


@dataclass(frozen=True)
class Good:
    """Good files by what they are, and the folder they lie in."""

    folder: Path
    config: bytes
    checkpoint: bytes
    records: dict[str, bytes]
    content: dict[str, Any]
    scores: bytes
    archives: dict[str, bytes]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Good:
    folder = furnish(tmp_path_factory.mktemp("fuzzing"))
    (folder / "note.txt").write_text("a b c d <unk>\n" * 5)
    with chdir(folder):
        done(*train_arguments(PART, "--max-steps", "30"))
        # PyTorch imports much, and makes folders, when it is first to be deterministic.
        done(*train_arguments("runs/usual", "--max-steps", "30", "--deterministic"))
    checkpoint = (folder / PART / "last.pt").read_bytes()
    return Good(
        folder,
        (folder / PART / "config.toml").read_bytes(),
        checkpoint,
        records_of(checkpoint),
        torch.load(folder / PART / "last.pt", weights_only=True),
        (folder / SCORES).read_bytes(),
        {"tar": some_tar(), "zip": some_zip()},
    )


@pytest.fixture(scope="module")
def watched(good: Good) -> Iterator[Watched]:
    with Watched(good.folder, USUAL) as process:
        yield process


Make = Callable[[Good, random.Random], list[str]]
"""Writes an input and returns the command that is to read it."""


def hunt(
    what: str, make: Make, tries: int, good: Good, watched: Watched, usual: tuple[str, ...] = ()
) -> tuple[int, int]:
    """Run a command on each of many inputs.

    Returns:
        how many it succeeded on, and how many it refused.
    """
    found: list[str] = []
    succeeded = 0
    for seed in range(tries):
        command = make(good, random.Random(f"{what} {seed}"))
        answer = watched.run(*command)
        succeeded += answer.code == 0
        complaint = answer.complaint(usual)
        if complaint is not None:
            kept = good.folder / f"failing-{what.replace(' ', '-')}-{seed}"
            for file in good.folder.glob("fuzz*"):
                if file.is_file():
                    shutil.copyfile(file, f"{kept}{file.suffix}")
            shown = [repr(part)[:300] for part in command]
            found.append(f"{what}, seed {seed}, {' '.join(shown)} (kept as {kept}*): {complaint}")
            if len(found) == MOST_SHOWN:
                break
    assert not found, "\n".join(found)
    return succeeded, tries - succeeded


def count(tally: Tally, what: str, outcomes: tuple[int, int]) -> None:
    succeeded, refused = outcomes
    tally.count(what, succeeded + refused)
    tally.count("of them taken", succeeded)
    tally.count("refused in one line", refused)


# Values of no sense.

TEXTS = [
    *(
        "",
        " ",
        "a",
        "lstm",
        "2",
        "true",
        "null",
        "None",
        "auto",
        "cpu",
        "small",
        "ä",
        "\u2028",
        "🙂",
    ),
    *("a\nb", "a\rb", "\t", "\x1b[2J", "\x7f", "'", '"', "\\", "#", "../..", "/", "~", "%s", "{}"),
    *("a" * 300, "a" * 5000, "é" * 2000, "=", ".", "a.b", "-1", "1_000", "\ufeff", "\x85"),
]


def any_number(rng: random.Random) -> int | float:
    return rng.choice(
        [
            rng.randint(-3, 3),
            rng.randint(0, 2**64),
            rng.choice(
                (2**31, 2**31 - 1, 2**32, 2**63, 2**63 - 1, -(2**63), 10**18, 10**30, 10**400)
            ),
            rng.choice((0.0, -0.0, 0.5, 1.0, 1e-320, 1e308, 5e-324, -1.5, 1e16, 0.1)),
            rng.random(),
        ]
    )


def any_value(rng: random.Random, depth: int = 0) -> Any:
    """Return a value that JSON can hold, or nearly."""
    kind = rng.randrange(8 if depth < 3 else 6)
    if kind < 2:
        return any_number(rng)
    if kind < 4:
        return rng.choice(TEXTS)
    if kind == 4:
        return rng.choice((True, False, None))
    if kind == 5:
        return rng.choice((float("nan"), float("inf"), float("-inf")))
    values = [any_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return values if kind == 6 else {rng.choice(TEXTS): value for value in values}


# Configs.

KEYS = {
    "model": ["cell", "layers", "hidden_size", "dropout", "init_range"],
    "training": [
        *("batch_size", "unrolled_steps", "epochs", "learning_rate", "constant_epochs"),
        *("decay", "clip_norm"),
    ],
    "run": ["config", "data", "seed", "device", "precision", "log_steps", "checkpoint_minutes"],
}
TOML_VALUES = [
    *("1", "0", "-1", "2.0", "0.5", "true", "false", "inf", "-inf", "nan", "+1", "1e400", "1e-400"),
    *("0xff", "0o7", "0b1", "1_000", "9" * 30, "9" * 5000, "0x" + "f" * 5000, "1." + "0" * 5000),
    *(
        "1979-05-27",
        "07:32:00",
        "1979-05-27T07:32:00Z",
        "2024-02-30",
        "1979-05-27 07:32:00.9999999",
    ),
    *('"lstm"', "'lstm'", '"""a\nb"""', "'''a'''", '"\\u0000"', '"\\ud800"', '"\\U0001F642"', '""'),
    *("[]", "[1, 2]", "[[1], ['a']]", "{}", "{a = 1}", "{a.b = 1}", "[" * 500 + "]" * 500),
    *(
        "{a = " * 500 + "1" + "}" * 500,
        "[" * 100_000,
        '"' + "x" * 100_000 + '"',
        "",
        "lstm",
        "\x00",
    ),
]
ODD_KEYS = [
    *(
        "epoch",
        "layers ",
        '"a\\nb"',
        '"\\u001b"',
        '""',
        "'quo ted'",
        "a.b",
        "1",
        "1.5",
        "-",
        "ключ",
    ),
    *(
        '"é"',
        "__proto__",
        "__class__",
        "model",
        "run.config",
        '"' + "k" * 10_000 + '"',
        "a." * 2000 + "a",
    ),
]


def any_toml_value(rng: random.Random) -> str:
    return rng.choice(TOML_VALUES) if rng.random() < 0.7 else json.dumps(any_number(rng))


def any_toml(rng: random.Random, good: bytes) -> bytes:
    """Return a config in which sections, keys and values are changed by the rules of TOML."""
    lines = good.decode().splitlines()
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        place = rng.randrange(len(lines) + 1)
        section = rng.choice([*KEYS, "other", "model.sub", '"a\\nb"', "[run]", "training]", ""])
        key = rng.choice([*ODD_KEYS, *KEYS["model"], *KEYS["training"], *KEYS["run"]])
        new = rng.choice(
            (f"[{section}]", f"{key} = {any_toml_value(rng)}", f"{key} = {any_toml_value(rng)}")
        )
        action = rng.randrange(4)
        if action == 0:
            lines.insert(place, new)
        elif action == 1:
            lines[place : place + 1] = []
        elif place < len(lines) and "=" in lines[place]:
            name = lines[place].partition("=")[0]
            lines[place] = f"{name}= {any_toml_value(rng)}"
        else:
            lines[place : place + 1] = [new]
    ending = rng.choice(("\n", "\n", "\r\n"))
    return ending.join(lines).encode("utf-8", "surrogatepass")


def a_config(good: Good, rng: random.Random) -> list[str]:
    data = mutated(good.config, rng) if rng.random() < 0.4 else any_toml(rng, good.config)
    (good.folder / "fuzz.toml").write_bytes(data)
    return ["config", "show", "fuzz.toml"]


def assignments(good: Good, rng: random.Random) -> list[str]:
    command = ["config", "show", "small"]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        section = rng.choice(list(KEYS))
        key = f"{section}.{rng.choice(KEYS[section])}"
        value = any_toml_value(rng)
        if rng.random() < 0.3:
            key = rng.choice(TEXTS) + rng.choice(("", ".", "..")) + rng.choice(TEXTS)
        if rng.random() < 0.2:
            value = rng.choice(TEXTS) + rng.choice(("", "\n", "\n[run]\n", "\nvalue = 2", " # x"))
        text = f"{key}{rng.choice(('=', '=', '=', ' = ', '', '=='))}{value}"
        if rng.random() < 0.2:
            text = mutated(text.encode(), rng).decode("utf-8", "surrogateescape")
        command += ["--set", text.replace("\0", "")[:100_000]]  # no argument can hold a NUL
    return command


@pytest.mark.promise("fuzzing")
def test_configs(good: Good, watched: Watched, tally: Tally) -> None:
    """Config files: TOML that is damaged, or well-formed with values of every other kind."""
    count(tally, "config files", hunt("config", a_config, tally.amount(150, 10_000), good, watched))


@pytest.mark.promise("fuzzing")
def test_assignments(good: Good, watched: Watched, tally: Tally) -> None:
    """`--set`: keys, values, quoting, line ends and numbers of every kind."""
    outcomes = hunt("set", assignments, tally.amount(150, 10_000), good, watched)
    count(tally, "--set options", outcomes)


# Checkpoints.


def another_pickle(good: Good, rng: random.Random) -> bytes:
    """Return the pickle of a checkpoint with its opcodes in disorder."""
    data = good.records["data.pkl"]
    starts = [place for _, _, place in pickletools.genops(data) if place is not None]
    codes = [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]
    for _ in range(rng.choice((1, 1, 2, 8))):
        place, other = rng.randrange(len(codes)), rng.randrange(len(codes))
        action = rng.randrange(5)
        if action == 0:
            codes[place], codes[other] = codes[other], codes[place]
        elif action == 1:
            codes.insert(place, codes[other])
        elif action == 2 and len(codes) > 2:
            del codes[place]
        elif action == 3:
            block = codes[place : place + rng.randrange(30)]
            codes[other:other] = block
        else:
            codes[place] = rng.choice(
                [
                    number(rng.choice((0, -1, 1, 2**31, 2**63, 2**64, 10**30))),
                    word(rng.choice(TEXTS)),
                    *(b"N", b"\x88", b"}", b"]", b")", b"(", b"0", b"t", b"\x85", b"R", b"Q", b"b"),
                    b"G" + rng.randbytes(8),
                    in_dict({rng.choice(TEXTS): b"N"}),
                ]
            )
    return b"".join(codes)


def replaced(value: Any, rng: random.Random) -> Any:
    """Return plain values and tensors with one of them, anywhere, changed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        return {**value, key: replaced(value[key], rng)}
    if isinstance(value, list | tuple) and value and rng.random() < 0.9:
        index = rng.randrange(len(value))
        changed = [*value[:index], replaced(value[index], rng), *value[index + 1 :]]
        return changed if isinstance(value, list) else tuple(changed)
    if isinstance(value, torch.Tensor) and rng.random() < 0.9:
        return another_tensor(value, rng)
    return any_value(rng)


def another_tensor(tensor: torch.Tensor, rng: random.Random) -> torch.Tensor:
    kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.uint8, torch.bool)
    return rng.choice(
        [
            lambda: tensor.to(rng.choice((*kinds, torch.complex64))),
            lambda: tensor[:1].expand(tensor.shape) if tensor.dim() else tensor,
            lambda: tensor.flatten()[: rng.randrange(9)],
            lambda: tensor.t() if tensor.dim() == 2 else tensor[None],
            lambda: torch.zeros(1).expand(rng.choice((10, 10**6, 10**12)), 8),
            lambda: torch.zeros(0),
            lambda: tensor.new_full(tensor.shape, rng.choice((0, 1, 255))),
            lambda: tensor / 0 if tensor.is_floating_point() else tensor,
            lambda: tensor.to_sparse() if tensor.is_floating_point() else tensor,
            lambda: tensor.to("meta"),
        ]
    )()


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return sealed(buffer.getvalue())


def a_checkpoint(good: Good, rng: random.Random) -> bytes:
    way = rng.randrange(10)
    if way == 0:
        return mutated(good.checkpoint, rng)
    if way < 4:
        return resealed(mutated(good.checkpoint, rng))
    if way < 6:
        return sealed(packed({**good.records, "data.pkl": another_pickle(good, rng)}))
    if way == 6:
        name = rng.choice(list(good.records))
        damaged = mutated(good.records[name], rng, good.checkpoint)
        return sealed(packed({**good.records, name: damaged}))
    if way == 7:
        kept = {name: data for name, data in good.records.items() if rng.random() < 0.9}
        return sealed(
            packed(
                {
                    **kept,
                    rng.choice(("data.pkl", "data/0", "x", "version", "code/x")): rng.randbytes(9),
                }
            )
        )
    return saved(replaced(good.content, rng))


def opened(good: Good, rng: random.Random) -> list[str]:
    data = a_checkpoint(good, rng)
    (good.folder / "fuzz.pt").write_bytes(data)
    way = rng.randrange(10)
    if way == 0:
        run = good.folder / "runs/fuzz"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(good.folder / PART, run)
        for name in ("last.pt", "previous.pt")[: rng.choice((1, 2, 2))]:
            (run / name).write_bytes(data)
        return RESUME
    if way == 1:
        return ["generate", "fuzz.pt", "--words", "5"]
    return [*EVAL, "--protocol", "columns"] if way < 5 else EVAL


OF_TRAINING = ("runs/fuzz", "'git'")
"""What a training does of itself: it writes into its folder, and asks git for the commit."""


@pytest.mark.promise("fuzzing")
def test_checkpoints(good: Good, watched: Watched, tally: Tally) -> None:
    """Checkpoints damaged inside and out, most with a right seal: eval, generate, --resume."""
    tries = tally.amount(150, 10_000)
    outcomes = hunt("checkpoint", opened, tries, good, watched, OF_TRAINING)
    count(tally, "checkpoints", outcomes)


# Score files.


def some_scores(good: Good, rng: random.Random) -> bytes:
    way = rng.randrange(5)
    if way == 0:
        return mutated(good.scores, rng)
    with zipfile.ZipFile(io.BytesIO(good.scores)) as archive:
        arrays = {name: archive.read(name) for name in archive.namelist()}
    if way == 1:
        name = rng.choice(list(arrays))
        arrays[name] = mutated(arrays[name], rng)
    elif way == 2:
        return zipped(any_member(rng, name, data) for name, data in arrays.items())
    else:
        with np.load(io.BytesIO(good.scores)) as content:
            description = json.loads(content["description"].tobytes())
        changed = replaced(description, rng)
        if isinstance(changed, dict) and rng.random() < 0.2:
            changed[rng.choice(TEXTS)] = any_value(rng)
        text = json.dumps(changed).encode()
        text = mutated(text, rng) if rng.random() < 0.3 else text
        buffer = io.BytesIO()
        np.save(buffer, np.frombuffer(text, np.uint8))
        arrays["description.npy"] = buffer.getvalue()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", rng.choice((0, 8, 12, 14))) as archive:
        for name, data in arrays.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def any_member(rng: random.Random, name: str, data: bytes) -> Member:
    """Return a member of a zip archive with one of its declarations false."""
    member = Member(name, data)
    big = rng.choice((0, 1, 100, 2**31, 2**32, 2**32 - 1, 2**40, 2**63 - 1))
    change = rng.choice(
        (
            {"method": rng.choice((0, 1, 8, 9, 12, 14, 93, 99, 65535))},
            {"size": big},
            {"flags": rng.randrange(65536)},
            {"crc": rng.randrange(2**32)},
            {"local": min(big, 2**32 - 1)},
            {"name": rng.choice((*TEXTS[:30], f"{name}\0x", name.upper(), f"x/{name}"))},
            {"data": mutated(data, rng)},
        )
    )
    return Member(**{**vars(member), **change})


def averaged(good: Good, rng: random.Random) -> list[str]:
    (good.folder / "fuzz.npz").write_bytes(some_scores(good, rng))
    return ["average", "fuzz.npz", *([SCORES] if rng.random() < 0.2 else [])]


@pytest.mark.promise("fuzzing")
def test_score_files(good: Good, watched: Watched, tally: Tally) -> None:
    """Score files: their archive, arrays and description damaged, or declaring what is not so."""
    outcomes = hunt("scores", averaged, tally.amount(150, 10_000), good, watched)
    count(tally, "score files", outcomes)


# Archives.

FILES = {f"data/ptb.{split}.txt": b"a b c\n" * 50 for split in ("train", "valid", "test")}


def some_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in {**FILES, "long/" * 40 + "name": b"x", "ключ": b"x"}.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("ptb.train.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "x" * 200
        archive.addfile(link)
    return buffer.getvalue()


def some_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in FILES.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


FIELDS = [(0, 100), (100, 8), (108, 8), (124, 12), (136, 12), (148, 8), (156, 1), (157, 100)]
FIELDS += [(257, 8), (265, 32), (329, 8), (345, 155), (386, 96), (482, 1), (483, 12)]


def another_tar(good: Good, rng: random.Random) -> bytes:
    """Return a tar archive with fields of headers changed, the checksums right again."""
    data = bytearray(good.archives["tar"])
    heads = [
        place for place in range(0, len(data), 512) if data[place + 257 : place + 262] == b"ustar"
    ]
    for _ in range(rng.choice((1, 1, 2, 5))):
        head = rng.choice(heads)
        start, length = rng.choice(FIELDS)
        value = rng.choice(
            (
                rng.randbytes(length),
                rng.choice(NUMBERS),
                b"\x80" + rng.randbytes(length),
                b"\xff" * length,
                b"7" * length,
                b"%o\0" % rng.choice((0, 1, 512, 10**6, 2**33)),
                bytes([rng.choice(b"0123456789ASLKDVMNXxg")]),
                b"-1 ",
                b"",
            )
        )
        field = (value + bytes(length))[:length]
        data[head + start : head + start + length] = field
        if rng.random() < 0.9:
            data[head + 148 : head + 156] = b" " * 8
            data[head + 148 : head + 156] = b"%06o\0 " % sum(data[head : head + 512])
    if rng.random() < 0.3:
        return mutated(bytes(data), rng)
    return bytes(data)


def an_archive(good: Good, rng: random.Random) -> list[str]:
    way = rng.randrange(8)
    if way < 3:
        data = another_tar(good, rng)
    elif way == 3:
        data = mutated(good.archives["tar"], rng)
    elif way == 4:
        members = (
            any_member(rng, name, data) if rng.random() < 0.5 else Member(name, data)
            for name, data in FILES.items()
        )
        data = zipped(members, rng.choice((None, None, 0, 2**31, 2**32 - 1)))
    else:
        data = mutated(good.archives["zip"], rng, good.archives["tar"])
    if way < 4 and rng.random() < 0.6:
        data = gzip.compress(data, 1)
        data = mutated(data, rng) if rng.random() < 0.3 else data
    name = f"fuzz{rng.choice(('.tar.gz', '.tgz', '.zip', '.tar', '.x'))}"
    (good.folder / name).write_bytes(data)
    return ["data", "fetch", "--from", name, "--data-dir", "store"]


@pytest.mark.promise("fuzzing")
def test_archives(good: Good, watched: Watched, tally: Tally) -> None:
    """Archives (.tar, .tar.gz, .zip): bytes and fields of headers damaged, checksums right."""
    outcomes = hunt("archive", an_archive, tally.amount(150, 10_000), good, watched)
    count(tally, "archives", outcomes)
    assert not (good.folder / "store").exists()


# What lies beside a checkpoint, and texts.


def a_run_folder(good: Good, rng: random.Random) -> list[str]:
    run = good.folder / "runs/fuzz"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(good.folder / PART, run)
    file = run / rng.choice(("environment.json", "metrics.jsonl", "metrics.jsonl", "config.toml"))
    data = mutated(file.read_bytes(), rng)
    if rng.random() < 0.5 and file.suffix != ".toml":
        lines = file.read_text().splitlines() if file.suffix == ".jsonl" else []
        records = [json.loads(line) for line in lines] or json.loads(file.read_text())
        changed = replaced(records, rng)
        if rng.random() < 0.1:
            changed = [rng.choice(("[" * 100_000, "9" * 5000)), changed]
        if isinstance(changed, list) and file.suffix == ".jsonl":
            written = [each if isinstance(each, str) else json.dumps(each) for each in changed]
            data = "\n".join(written).encode("utf-8", "surrogatepass")
        else:
            data = json.dumps(changed).encode()
    file.write_bytes(data)
    (good.folder / f"fuzz{file.suffix}").write_bytes(data)
    return RESUME


@pytest.mark.promise("fuzzing")
def test_files_beside_a_checkpoint(good: Good, watched: Watched, tally: Tally) -> None:
    """The other files of a run that is resumed: environment.json, metrics.jsonl, config.toml."""
    tries = tally.amount(20, 1_000)
    outcomes = hunt("run folder", a_run_folder, tries, good, watched, OF_TRAINING)
    count(tally, "run folders resumed", outcomes)


def a_text(good: Good, rng: random.Random) -> list[str]:
    folder = good.folder / "fuzz-text"
    if not folder.exists():
        shutil.copytree(good.folder / "text", folder)
    source = (good.folder / "text/train.txt").read_bytes()
    pieces = [
        b"\xff",
        b"\0",
        b"\xef\xbb\xbf",
        b"\r\n",
        b"\xe2\x80\xa8",
        b"<eos>",
        b"\n\n",
        b"\xed\xa0\x80",
    ]
    text = rng.choice(
        (
            lambda: mutated(source, rng),
            lambda: rng.randbytes(rng.randrange(400)),
            lambda: source + rng.choice(pieces) * rng.randrange(9) + source,
            lambda: "".join(map(chr, rng.choices(range(1, 0xD800), k=300))).encode(),
            lambda: b"word " * rng.randrange(40),
            lambda: rng.choice(pieces) * rng.randrange(40),
        )
    )()
    (folder / f"{rng.choice(('train', 'valid', 'test'))}.txt").write_bytes(text)
    (good.folder / "fuzz.txt").write_bytes(text)
    return rng.choice(
        (
            ["data", "info", "--data", "fuzz-text"],
            ["eval", f"{PART}/last.pt", "--text", "fuzz.txt"],
            ["eval", f"{PART}/last.pt", "--text", "fuzz.txt", "--protocol", "columns"],
            train_arguments("runs/fuzz", "--overwrite", "--max-steps", "2", data="fuzz-text"),
        )
    )


@pytest.mark.promise("fuzzing")
def test_texts(good: Good, watched: Watched, tally: Tally) -> None:
    """Texts of any bytes as `--data` and `--text`."""
    tries = tally.amount(30, 2_000)
    count(tally, "texts", hunt("text", a_text, tries, good, watched, OF_TRAINING))
