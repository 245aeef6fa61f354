"""From a stream of tokens to windows of truncated backpropagation through time.

Shapes: N tokens in the stream, B streams (columns), T steps (rows) in a window. Arrays are
time-major, so that a window is a slice of rows and the network's step t reads row t. A text stays
in int32, 4 bytes a token; a window is widened to int64, which indexing takes, when it is used.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ptb_lm.corpus.tokens import TokenIds
from ptb_lm.errors import InputError


def training_columns(
    tokens: TokenIds, batch_size: int, unrolled_steps: int, name: str = "training text"
) -> Tensor:
    """Cut a stream into B contiguous columns; the N mod B tokens of its end are left out.

    Args:
        tokens: (N,).
        batch_size: B.
        unrolled_steps: T.
        name: what to call the text in a message.

    Returns:
        int32 of shape (N // B, B), a view of the stream: column b reads downwards as the b-th part
        of the text.

    Raises:
        InputError: the corpus is too short for a single window.
    """
    least = batch_size * (unrolled_steps + 1)
    if len(tokens) < least:
        raise InputError(
            f"{name} has {len(tokens):,} tokens; training.batch_size {batch_size} and "
            f"training.unrolled_steps {unrolled_steps} need at least {least:,}; lower one of the "
            "two, or give more text"
        )
    length = len(tokens) // batch_size
    return torch.from_numpy(tokens[: length * batch_size]).view(batch_size, length).t()


def windows_per_epoch(columns: Tensor, unrolled_steps: int) -> int:
    """Return the number of whole windows; the last partial one is dropped in training."""
    return (len(columns) - 1) // unrolled_steps


def training_window(
    columns: Tensor, window: Tensor | int, unrolled_steps: int
) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of a window, both int64 (T, B).

    A target is the next row's input.

    Args:
        columns: see :func:`training_columns`.
        window: the index of the window; a tensor, int64 (), may lie on the device.
        unrolled_steps: T.
    """
    rows = window * unrolled_steps + torch.arange(unrolled_steps + 1, device=columns.device)
    text = widened(columns[rows])  # (T + 1, B)
    return text[:-1], text[1:]


def widened(tokens: Tensor) -> Tensor:
    """Return tokens as the indices that a network takes: int64, a row after the other in memory."""
    return tokens.to(torch.int64, memory_format=torch.contiguous_format)


def require_columns(
    tokens: int, streams: int, name: str = "the text to evaluate", remedy: str = "give more text"
) -> None:
    """Raise InputError if a text is too short to be cut into this many columns.

    Args:
        tokens: N.
        streams: B.
        name: what to call the text.
        remedy: what the caller's user can do.
    """
    if tokens < streams + 1:
        raise InputError(
            f"{name} has {tokens:,} tokens; {streams} columns need at least {streams + 1:,}; "
            f"{remedy}"
        )


def evaluation_windows(targets: int, streams: int, max_steps: int) -> Iterator[Tensor]:
    """Lay out the evaluation of a text so that each of its targets is scored exactly once.

    The targets are the tokens 1 … N-1; target i (counted from 0) is token i+1 and is predicted
    from token i. They are cut into B contiguous columns. Where B does not divide their number,
    the first columns are one target longer, and the last window is that one row, narrower.

    Args:
        targets: N - 1.
        streams: B; 1 is the paper's test protocol.
        max_steps: the most rows of a window. The figures do not depend on it.

    Yields:
        int64 of shape (at most max_steps, B or less): which target each place scores. Read as
        token positions they are the inputs; plus one, the targets.

    Raises:
        InputError: the text has fewer targets than streams.
    """
    require_columns(targets + 1, streams)
    length, longer = divmod(targets, streams)
    column = torch.arange(streams)
    starts = column * length + column.clamp(max=longer)  # of each column, (B,)
    for row in range(0, length, max_steps):
        rows = torch.arange(row, min(row + max_steps, length))
        yield rows[:, None] + starts[None, :]
    if longer:
        yield (starts[:longer] + length)[None, :]


def batches_by_length(lengths: Tensor, max_targets: int, least_streams: int) -> Iterator[Tensor]:
    """Sort sentences into batches of nearly one length, so that little of a batch is padding.

    Args:
        lengths: targets of each sentence, int64 (S,), at least 1.
        max_targets: the most of a batch, padding included, where its sentences are short.
        least_streams: how many sentences are scored side by side where they are long.

    Yields:
        which sentences, the longest first, int64 (B,).
    """
    order = torch.argsort(lengths, descending=True, stable=True)
    first = 0
    while first < len(order):
        longest = int(lengths[order[first]])
        streams = max(least_streams, max_targets // longest)
        yield order[first : first + streams]
        first += streams


def padded_windows(
    starts: Tensor, lengths: Tensor, max_targets: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Lay out sentences of a text side by side, in windows from each of which the state goes on.

    A sentence that ends within a window is padded by its own last place, and has no column in the
    windows after it. As a network sees nothing ahead, what is padded changes no score.

    Args:
        starts: the first target of each sentence, int64 (B,).
        lengths: how many targets it has, (B,), the greatest first.
        max_targets: the most places of a window; at least B.

    Yields:
        which target each place scores, int64 (T, B or less), as :func:`evaluation_windows` does;
        and whether the place counts or is padding, bool of the same shape.
    """
    row = 0
    while streams := int((lengths > row).sum()):
        steps = min(max_targets // streams, int(lengths[0]) - row)
        rows = torch.arange(row, row + steps)[:, None]
        ends = lengths[:streams]
        yield starts[:streams] + torch.minimum(rows, ends - 1), rows < ends
        row += steps
