"""The run folder: which files a run leaves, and what happens to them on a new start."""

import json
import logging
from pathlib import Path
from typing import Any

from ptb_lm.config import Config, to_toml
from ptb_lm.durable import durable_file
from ptb_lm.errors import InputError, PtbLmError

logger = logging.getLogger(__name__)

Record = dict[str, Any]


class RunFolder:
    """The files of a run by their names.

    Attributes:
        config: the resolved config; ``--config`` of this file repeats the run.
        environment: versions, device, threads and commit, of the start and of each resumption.
        metrics: one JSON object a line.
        last: the checkpoint that the run resumes from, and whose weights are reported.
        best: the weights of the epoch with the lowest validation perplexity.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.environment = path / "environment.json"
        self.metrics = path / "metrics.jsonl"
        self.last = path / "last.pt"
        self.best = path / "best.pt"

    def scores(self, split: str) -> Path:
        """Return the file of the last weights' per-token scores of a split."""
        return self.path / f"scores-{split}.npz"

    def require_unused(self, overwrite: bool) -> None:
        """Raise InputError if there is something here that a new run would put out of sight."""
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise InputError(f"{self.path}: not a folder")
        if not any(self.path.iterdir()):
            return
        if not self.config.exists():
            raise InputError(f"{self.path}: not empty and not a run folder; name another --run-dir")
        if not overwrite:
            raise InputError(
                f"{self.path}: a run is there already; use --resume to go on with it, "
                "--overwrite to begin anew, or another --run-dir"
            )

    def require_no_results(self) -> None:
        """Raise InputError if a run without ``last.pt`` has got as far as to have results.

        Such a folder is evidence that travels without its checkpoints: to begin anew in it is not
        what --resume can have meant.
        """
        if self.best.exists() or self.scores("valid").exists() or self.scores("test").exists():
            raise InputError(
                f"{self.path}: has results but no last.pt to resume from; name another --run-dir, "
                "or use --overwrite to begin anew"
            )

    def create(self) -> None:
        """Make the folder; of a run before, remove the files that this program writes."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            files = [self.config, self.environment, self.metrics, self.last, self.best]
            for file in [*files, *(self.scores(split) for split in ("valid", "test"))]:
                file.unlink(missing_ok=True)
        except OSError as error:
            raise PtbLmError(f"{self.path}: cannot be created: {error.strerror}") from None

    def write_config(self, config: Config) -> None:
        """Record the resolved config."""
        with durable_file(self.config) as file:
            file.write(to_toml(config).encode())

    def write_environment(self, environment: Record, step: int) -> None:
        """Record where the run is made; the start first, then each resumption."""
        parts = self._environments() if step else []
        parts.append({"from_step": step, **environment})
        with durable_file(self.environment) as file:
            file.write((json.dumps(parts, indent=2) + "\n").encode())

    def _environments(self) -> list[Record]:
        if not self.environment.exists():
            return []
        parts: list[Record] = json.loads(self.environment.read_text(encoding="utf-8"))
        return parts

    def append_metrics(self, record: Record) -> None:
        """Add a line to the metrics."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def forget_metrics_after(self, step: int) -> None:
        """Drop the lines of steps that a resumed run will make again."""
        records = [record for record in read_metrics(self.metrics) if record["step"] <= step]
        with durable_file(self.metrics) as file:
            file.write("".join(json.dumps(record) + "\n" for record in records).encode())


def read_metrics(path: Path) -> list[Record]:
    """Read a metrics file; a last line that a crash cut short is left out."""
    if not path.exists():
        return []
    records: list[Record] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            logger.warning("%s: a line that was cut short is left out", path)
    return records
