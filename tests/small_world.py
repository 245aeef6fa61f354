"""A world in which the commands of the documentation take no time: all is there, and all is small.

The presets keep their names and have a few units, the Penn Treebank is a few hundred words that a
mirror on the loopback interface serves, the built-in language is short, and so is a round of the
bench, of one preset. Nothing else differs, in this process or in those that it starts.
"""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

SIZES = {"hidden_size": 8, "batch_size": 4, "unrolled_steps": 5, "epochs": 2}

WORDS = [
    *("the", "company", "said", "it", "would", "be", "a", "year", "of", "the", "market", "for"),
    *("its", "shares", "and", "n", "<unk>", "in", "new", "york", "that", "was", "not", "all"),
]
SENTENCES = {"train": 60, "valid": 12, "test": 12}


def build(folder: Path, mirror: str) -> dict[str, bytes]:
    """Put the small presets into a folder, and what shrinks a process that is started in it.

    Returns:
        the files that the mirror, a base URL, is to serve.
    """
    presets = folder / "presets"
    presets.mkdir(parents=True)
    for preset in (ROOT / "configs").glob("*.toml"):
        text = preset.read_text(encoding="utf-8")
        for key, value in SIZES.items():
            text = re.sub(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
        (presets / preset.name).write_text(text, encoding="utf-8")
    corpus = {f"ptb.{split}.txt": _text(count).encode() for split, count in SENTENCES.items()}
    world = {
        "presets": str(presets),
        "mirror": mirror,
        "files": [
            [name.split(".")[1], name, len(data), hashlib.sha256(data).hexdigest()]
            for name, data in corpus.items()
        ],
    }
    (folder / "world.json").write_text(json.dumps(world))
    # What Python imports of itself when it starts, as the folder is on its path.
    (folder / "sitecustomize.py").write_text(
        f"import sys\nfrom pathlib import Path\nsys.path.append({str(Path(__file__).parent)!r})\n"
        f"import small_world\nsmall_world.shrink(Path({str(folder)!r}))\n"
    )
    return corpus


def shrink(folder: Path, put: Callable[[Any, str, Any], None] = setattr) -> None:
    """Make this process's world small: presets, corpus and mirror are those of a folder."""
    from ptb_lm import config
    from ptb_lm.bench import measure, timed_process
    from ptb_lm.corpus import download, ptb, synthetic

    world = json.loads((folder / "world.json").read_text())
    files = tuple(ptb.PtbFile(*each) for each in world["files"])
    put(config, "presets_folder", lambda: Path(world["presets"]))
    put(ptb, "PTB_FILES", files)
    put(download, "PTB_FILES", files)
    put(download, "MIRRORS", (world["mirror"],))
    put(synthetic, "SENTENCES", {"train": 300, "valid": 30, "test": 30})
    put(timed_process, "ROUND_SECONDS", 0.01)
    put(measure, "PAPER_PRESETS", measure.PAPER_PRESETS[:1])


def write_texts(folder: Path) -> None:
    """Put train.txt, valid.txt and test.txt into a folder."""
    folder.mkdir()
    for split, count in SENTENCES.items():
        (folder / f"{split}.txt").write_text(_text(count))


def _text(sentences: int) -> str:
    """Return sentences of 6 to 10 words, all of WORDS among them."""
    lines, place = [], 0
    for sentence in range(sentences):
        length = 6 + sentence * 7 % 5
        lines.append(" ".join(WORDS[(place + 5 * step) % len(WORDS)] for step in range(length)))
        place += length + 1
    return "".join(f" {line} \n" for line in lines)
