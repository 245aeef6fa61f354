"""Files of a stranger's, and a process apart that opens them and is watched.

Run as a program this file is that process: it answers commands of ``ptb-lm``, one a line, with
what they printed, how much memory they took and whatever they did that opening a file should not.
"""

import gc
import hashlib
import io
import json
import os
import random
import resource
import select
import struct
import subprocess
import sys
import tempfile
import traceback
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

MEMORY = 200_000_000
"""Bytes that opening a file may take above what the process takes at rest."""

ROOM = 1 << 30
"""Bytes of address space that the process has for all it does, so that a bomb cannot hurt."""

PATIENCE_SECONDS = 300.0  # a safety net alone: no answer is waited for so long

LONGEST_LINE = 5_000
"""Characters of the longest line that can still be said to be one."""

OUT_OF_MEMORY = ("out of memory", "MemoryError", "Unable to allocate", "allocate memory")


@dataclass
class Answer:
    """What a command did.

    Attributes:
        code: its exit code; of one that killed or hung the interpreter, None.
        peak: bytes of memory it took at most, above those of the process at rest.
        deeds: what was executed, written or connected to.
        trace: of an error that the program did not foresee.
    """

    code: int | None
    out: str = ""
    err: str = ""
    peak: int = 0
    deeds: list[str] = field(default_factory=list)
    trace: str = ""

    @property
    def refused(self) -> bool:
        return self.code in (1, 2)

    def complaint(self, usual: tuple[str, ...] = ()) -> str | None:
        """Say what is wrong, if the command has neither succeeded nor refused in one line.

        Args:
            usual: what deeds have in them that are the command's own.
        """
        if self.code is None:
            return self.err
        if self.trace:
            return f"unforeseen: {self.trace}"
        if self.peak > MEMORY:
            return f"took {self.peak / 1e6:,.0f} MB"
        if any(sign in self.err for sign in OUT_OF_MEMORY):
            return f"out of memory: {self.err[-300:]}"
        deeds = [deed for deed in self.deeds if not any(part in deed for part in usual)]
        if deeds:
            return f"deeds: {deeds[:5]}"
        lines = self.err.splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        one_line = len(errors) == 1 and errors[0] == lines[-1]
        if self.code != 0 and not (self.refused and one_line):
            return f"exit code {self.code}, no line of its own: {self.err[-500:]!r}"
        if self.code == 0 and errors:
            return f"exit code 0 with an error: {self.err[-500:]!r}"
        if any(len(line) > LONGEST_LINE for line in lines):
            return f"a line of {max(map(len, lines)):,} characters: {self.err[:200]!r}"
        return None


class Watched:
    """A process that runs commands in a folder, one after another, and is begun anew as it dies.

    Args:
        folder: the current one of the commands.
        usual: commands that it runs unwatched at its beginning, which import and allocate what
            such commands with good files need. What it takes then is what it takes at rest.
    """

    def __init__(self, folder: Path, usual: list[list[str]]) -> None:
        self.folder = folder
        self.usual = usual
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Watched":
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def run(self, *arguments: str) -> Answer:
        process = self.process or self._begin()
        assert process.stdin is not None
        assert process.stdout is not None
        line = b""
        try:
            process.stdin.write(json.dumps(arguments).encode() + b"\n")
            process.stdin.flush()
            if select.select([process.stdout], [], [], PATIENCE_SECONDS)[0]:
                line = process.stdout.readline()
            else:
                process.kill()
        except BrokenPipeError:
            pass
        if not line:
            return self._died(process)
        answer = Answer(**json.loads(line))
        if answer.peak > MEMORY:
            self.end()  # what it has kept would count against the next
        return answer

    def end(self) -> None:
        if self.process is not None:
            for pipe in (self.process.stdin, self.process.stdout):
                assert pipe is not None
                pipe.close()
            self.process.kill()
            self.process.wait()
            self.errors.close()
            self.process = None

    def _begin(self) -> subprocess.Popen[bytes]:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", __file__, json.dumps(self.usual)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            cwd=self.folder,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PTB_LM_DATA_DIR": str(self._without_corpus()),
                # The code beside these tests, and the current folder, as `python -m` has it.
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(self.folder)]),
            },
        )
        return self.process

    def _without_corpus(self) -> Path:
        """Return a data folder whose Penn Treebank is damaged, so that none is ever fetched."""
        data_dir = self.folder / "damaged"
        (data_dir / "ptb").mkdir(parents=True, exist_ok=True)
        (data_dir / "ptb" / "ptb.train.txt").write_text("a b\n")
        return data_dir

    def _died(self, process: subprocess.Popen[bytes]) -> Answer:
        code = process.wait(PATIENCE_SECONDS)
        self.errors.seek(0)
        told = self.errors.read()[:1500].decode(errors="replace")
        self.end()
        what = "hung" if code == -9 else "ended"
        return Answer(None, err=f"the interpreter {what}, exit code {code}: {told}")


# What the process does.


def serve(usual: list[list[str]]) -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    from cli_support import done, ptb_lm

    from ptb_lm.model.backends import configure_backends

    for arguments in usual:
        done(*arguments)
    guard = _Guard()
    configure_backends("fp32")  # which calls into the C library, once in a process
    sys.addaudithook(guard.hear)
    size = _memory("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, size + ROOM))
    gc.collect()
    gc.freeze()  # what is there now is no longer looked through
    at_rest = _memory("VmRSS")
    for line in sys.stdin.buffer:
        arguments = json.loads(line)
        gc.collect()
        _forget_peak()
        guard.deeds = []
        try:
            outcome = ptb_lm(*arguments)
        except BaseException:
            answer = Answer(1, trace=traceback.format_exc()[-3000:])
        else:
            answer = Answer(outcome.code, outcome.out[-2000:], outcome.err[-100_000:])
        answer.peak = _memory("VmHWM") - at_rest
        answer.deeds, guard.deeds = guard.deeds, None
        if "--debug shows where" in answer.err:
            answer.trace = _trace(arguments) or answer.err[-3000:]
        answers.write(json.dumps(asdict(answer)).encode() + b"\n")
        answers.flush()


def _trace(arguments: list[str]) -> str:
    """Return the traceback of a command that fails in a way that the program does not foresee."""
    from cli_support import ptb_lm

    try:
        ptb_lm("--debug", *arguments)
    except BaseException:
        return traceback.format_exc()[-3000:]
    return ""


def _memory(what: str) -> int:
    """Return VmRSS, VmHWM (its peak) or VmSize of this process in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition(f"{what}:")[2].split()[0])


def _forget_peak() -> None:
    """Let the peak begin anew, as a process inherits the one of its parent."""
    Path("/proc/self/clear_refs").write_text("5")


class _Guard:
    """Hears what Python's audit hooks tell, and keeps what no opening of a file has cause to do."""

    FORBIDDEN = (
        *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess."),
        *("pickle.find_class", "socket.connect", "socket.bind", "ctypes.", "code.__new__"),
        *("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod"),
        "shutil.",
    )

    def __init__(self) -> None:
        self.deeds: list[str] | None = None

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.deeds is None:
            return
        if event.startswith(self.FORBIDDEN):
            self.deeds.append(f"{event} {arguments!r}"[:300])
        elif event == "exec" and not _importing():
            self.deeds.append(f"exec of {arguments[0].co_filename}")
        elif event == "open":
            path, _, flags = arguments
            writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            if flags & writing and not str(path).startswith("/proc/self/"):
                self.deeds.append(f"writes {path!r}"[:300])


def _importing() -> bool:
    """Return whether this is the code of a module that is imported late, or called by it."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
    return False


# Checkpoints with a seal that is right, so that what refuses them is not the seal.

SEAL = b"ptb-lm sha256 "
SEAL_BYTES = len(SEAL) + 64


def seal_of(data: bytes) -> bytes:
    return SEAL + hashlib.sha256(data).hexdigest().encode()


def sealed(archive: bytes) -> bytes:
    """Seal a zip archive without a comment, as ptb_lm/training/tensor_file.py describes."""
    assert archive.endswith(b"\0\0")
    data = archive[:-2] + SEAL_BYTES.to_bytes(2, "little")
    return data + seal_of(data)


def unsealed(checkpoint: bytes) -> bytes:
    return checkpoint[: -SEAL_BYTES - 2] + b"\0\0"


def resealed(data: bytes) -> bytes:
    """Put a seal that is right over whatever the bytes before it are."""
    body = data[:-SEAL_BYTES]
    return body + seal_of(body)


def records_of(checkpoint: bytes) -> dict[str, bytes]:
    """Return the records of a checkpoint that PyTorch's writer does not make by itself."""
    with zipfile.ZipFile(io.BytesIO(checkpoint)) as archive:
        return {
            name.partition("/")[2]: archive.read(name)
            for name in archive.namelist()
            if not name.endswith(("/version", "/serialization_id"))
        }


def packed(records: dict[str, bytes]) -> bytes:
    """Write an archive as PyTorch does, whatever is in its records."""
    from torch.serialization import _open_zipfile_writer

    buffer = io.BytesIO()
    with _open_zipfile_writer(buffer) as archive:
        for name, data in records.items():
            archive.write_record(name, data, len(data))
    return buffer.getvalue()


# Pickles by hand. Each of these returns opcodes that leave one value on the stack.


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def word(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def raw(data: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def in_tuple(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def in_list(*values: bytes) -> bytes:
    return b"](" + b"".join(values) + b"e"


def in_dict(items: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(word(key) + value for key, value in items.items()) + b"u"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + in_tuple(*arguments) + b"R"


# Archives by hand.


def zeros(size: int) -> bytes:
    """Return so many zero bytes under deflate, a thousandth as long, at once."""
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    end = zlib.compressobj(9, wbits=-15)
    return block * (size >> 20) + end.compress(bytes(size % (1 << 20))) + end.flush()


@dataclass
class Member:
    """A member of a zip archive, as it is to be declared.

    Attributes:
        data: its bytes as they stand in the archive.
        size: what it declares to unpack to; by default as many.
        local: the offset of its header, where that is not its own.
    """

    name: str
    data: bytes
    method: int = zipfile.ZIP_STORED
    size: int | None = None
    flags: int = 0
    crc: int | None = None
    local: int | None = None

    @classmethod
    def deflated(cls, name: str, data: bytes, size: int) -> "Member":
        return cls(name, data, zipfile.ZIP_DEFLATED, size, crc=0)

    def header(self, signature: bytes, more: bytes, extra: bytes) -> bytes:
        size = len(self.data) if self.size is None else self.size
        crc = zlib.crc32(self.data) if self.crc is None else self.crc
        name = self.name.encode()
        fields = (45, self.flags, self.method, 0, 33, crc, len(self.data), min(size, 2**32 - 1))
        lengths = struct.pack("<HH", len(name), len(extra))
        return signature + struct.pack("<HHHHHIII", *fields) + lengths + more + name + extra


def zipped(members: Iterable[Member], directory_at: int | None = None) -> bytes:
    """Write a zip archive with whatever its members declare.

    Args:
        members: in order.
        directory_at: the offset that is declared of the directory; by default the true one.
    """
    body, directory = io.BytesIO(), io.BytesIO()
    count = 0
    for member in members:
        size = len(member.data) if member.size is None else member.size
        extra = struct.pack("<HHQ", 1, 8, size) if size >= 2**32 - 1 else b""
        offset = body.tell() if member.local is None else member.local
        if member.local is None:
            body.write(member.header(b"PK\3\4", b"", extra) + member.data)
        more = struct.pack("<HHHII", 0, 0, 0, 0, offset)
        directory.write(member.header(b"PK\1\2\0\0", more, extra))
        count = min(count + 1, 0xFFFF)
    at = body.tell() if directory_at is None else directory_at
    end = (b"PK\5\6", 0, 0, count, count, directory.tell(), at, 0)
    return body.getvalue() + directory.getvalue() + struct.pack("<4sHHHHIIH", *end)


# Damage at random.

NUMBERS = [
    *(value.to_bytes(4, "little") for value in (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)),
    *(value.to_bytes(2, "little") for value in (0, 1, 0x7FFF, 0x8000, 0xFFFF)),
    *(value.to_bytes(8, "little") for value in (0, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)),
    *(b"\0", b"\1", b"\x7f", b"\x80", b"\xff"),
]


def mutated(data: bytes, rng: random.Random, donor: bytes = b"") -> bytes:
    """Return the bytes with one to four things done to them at random places."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(_MUTATIONS)(data, rng, donor or data)
    return data


def _place(data: bytes, rng: random.Random) -> int:
    return rng.randrange(len(data)) if data else 0


def _flip(data: bytes, rng: random.Random, donor: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 8)) if data else 0):
        changed[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _number(data: bytes, rng: random.Random, donor: bytes) -> bytes:
    place, number = _place(data, rng), rng.choice(NUMBERS)
    return data[:place] + number + data[place + len(number) :]


def _noise(data: bytes, rng: random.Random, donor: bytes) -> bytes:
    place, noise = _place(data, rng), rng.randbytes(rng.choice((1, 4, 30)))
    return data[:place] + noise + data[place + len(noise) :]


def _drop(data: bytes, rng: random.Random, donor: bytes) -> bytes:
    place = _place(data, rng)
    return data[:place] + data[place + rng.choice((1, 2, 8, 100, 1000)) :]


def _copy(data: bytes, rng: random.Random, donor: bytes) -> bytes:
    source, target = _place(donor, rng), _place(data, rng)
    block = donor[source : source + rng.choice((1, 4, 30, 200, 2000))]
    return data[:target] + block + data[target + rng.choice((0, len(block))) :]


def _repeat(data: bytes, rng: random.Random, donor: bytes) -> bytes:
    place = _place(data, rng)
    return data[:place] + data[place : place + rng.choice((1, 8, 100))] * 50 + data[place:]


def _truncate(data: bytes, rng: random.Random, donor: bytes) -> bytes:
    return data[: _place(data, rng)]


def _splice(data: bytes, rng: random.Random, donor: bytes) -> bytes:
    return data[: _place(data, rng)] + donor[_place(donor, rng) :]


_MUTATIONS = (
    _flip,
    _flip,
    _number,
    _number,
    _noise,
    _drop,
    _copy,
    _copy,
    _repeat,
    _truncate,
    _splice,
)


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
