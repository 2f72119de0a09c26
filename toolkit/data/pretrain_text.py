"""Pretraining text to two token streams: documents joined by end-of-text, to train on and held out.

With at least 100 documents, blake2b(seed, position) holds documents out; fewer are one stream whose
tail is held out.
A task's lines are drawn independently, so its last ones are held out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from toolkit.data.formats import read_documents, settings_of
from toolkit.data.seeds import share
from toolkit.data.tasks.base import Task
from toolkit.data.tokenize import Text
from toolkit.spec.errors import DataError, Problem
from toolkit.spec.schema import Spec

if TYPE_CHECKING:
    import numpy as np

_MANY = 100
_PIECE = 1 << 20
_TOGETHER = 4096


def load_documents(spec: Spec, task: Task | None = None) -> tuple[list[str], dict[str, int]]:
    """Return the documents of the run's pretraining text and their counts, or nothing.

    Raises:
        DataError: a problem of the file.
    """
    if task is not None:
        lines = task.pretrain()
        return lines, {"read": len(lines)}
    if spec.data.pretrain is None:
        return [], {}
    found = read_documents(settings_of(spec.data.pretrain))
    if found.problems:
        raise DataError(found.problems)
    return [document.text for document in found.records], {"read": found.read, **found.dropped}


def make_streams(
    spec: Spec, text: Text, documents: Sequence[str], by_position: bool
) -> dict[str, np.ndarray]:
    """Tokenize documents into {"train": int32 [N], "valid": int32 [M]}.

    Args:
        spec: seed and held-out share.
        text: the run's tokenizer.
        documents: texts, in order.
        by_position: hold out the tail, whatever the number of documents (a task's lines).

    Raises:
        DataError: the tokenizer has no token for a part of the text, or nothing is left.
    """
    import numpy as np

    valid = spec.data.split.valid
    try:
        if by_position or len(documents) < _MANY:
            whole = _stream(text, documents)
            cut = len(whole) - round(valid * len(whole))
            streams = {"train": whole[:cut], "valid": whole[cut:]}
        else:
            held = [share(spec.seed, "pretrain", at) < valid for at in range(len(documents))]
            streams = {
                side: _stream(
                    text,
                    [d for d, out in zip(documents, held, strict=True) if out == (side == "valid")],
                )
                for side in ("train", "valid")
            }
    except ValueError as error:
        raise DataError([Problem(_name(spec), 0, 0, "", str(error))]) from error
    if len(streams["train"]) == 0:
        raise DataError([Problem(_name(spec), 0, 0, "", "no pretraining text is left to train on")])
    return {side: np.ascontiguousarray(stream) for side, stream in streams.items()}


def _name(spec: Spec) -> str:
    return spec.data.pretrain.path if spec.data.pretrain is not None else "task's pretraining text"


def _stream(text: Text, documents: Sequence[str]) -> np.ndarray:
    """Tokenize in groups, so that memory holds few encodings at a time."""
    import numpy as np

    parts = []
    for group in _groups(documents):
        rows = text.encode_documents([piece for piece, _ in group])
        for row, (_, last) in zip(rows, group, strict=True):
            parts.append(np.asarray(row if last else row[:-1], dtype=np.int32))
    return np.concatenate(parts) if parts else np.empty(0, np.int32)


def _groups(documents: Sequence[str]) -> Iterator[list[tuple[str, bool]]]:
    """Yield groups of (piece, whether it ends its document)."""
    group: list[tuple[str, bool]] = []
    size = 0
    for document in documents:
        for piece, last in _pieces(document):
            group.append((piece, last))
            size += len(piece)
            if len(group) >= _TOGETHER or size >= 8 * _PIECE:
                yield group
                group, size = [], 0
    if group:
        yield group


def _pieces(document: str) -> Iterator[tuple[str, bool]]:
    """Cut a long document at line ends, about a million characters apart."""
    start = 0
    while len(document) - start > _PIECE:
        end = document.find("\n", start + _PIECE) + 1
        if end <= 0 or end >= len(document):
            break
        yield document[start:end], False
        start = end
    yield document[start:], True
