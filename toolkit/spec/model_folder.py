"""Is a Hugging Face model folder whole? Told from its files' heads; no model is loaded.

A folder that was copied or downloaded in part, or that the installed transformers cannot load, is
found by `check`, not in the middle of a run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from toolkit.spec.model_type import Head, type_fault

_SINGLE = ("model.safetensors", "pytorch_model.bin")
_INDEX = tuple(f"{name}.index.json" for name in _SINGLE)
_POINTER = b"version https://git-lfs"


def model_fault(folder: Path, heads: Iterable[Head] = ("CAUSAL_LM",)) -> str | None:
    """Return what keeps transformers from loading the model in `folder`, and the fix; or None.

    Args:
        folder: a Hugging Face model folder.
        heads: what it is loaded as.
    """
    if not (folder / "config.json").is_file():
        return f'"{folder}" has no config.json; expected a Hugging Face model folder'
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        return f"{folder / 'config.json'} is no JSON object; copy the file again"
    if fault := type_fault(config, heads):
        return f"{folder / 'config.json'} {fault}"
    files = weight_files(folder)
    if not files:
        return (
            f'"{folder}" has no weights; expected model.safetensors, as save_pretrained writes it'
        )
    return next((fault for file in files if (fault := _file_fault(file)) is not None), None)


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold a model's weights, as its index names them; [] where none do."""
    for single, index in zip(_SINGLE, _INDEX, strict=True):
        if (folder / single).is_file():
            return [folder / single]
        found = read_json(folder / index)
        named = found.get("weight_map") if isinstance(found, dict) else None
        if isinstance(named, dict):
            return [folder / name for name in sorted(set(map(str, named.values())))]
    return []


def _file_fault(path: Path) -> str | None:
    if not path.is_file():
        return f"{path} is missing, and the index beside it names it; copy the file again"
    with path.open("rb") as file:
        head = file.read(len(_POINTER))
    if head == _POINTER:
        return f"{path} is a pointer of Git LFS and no weights; run git lfs pull in that folder"
    if path.suffix != ".safetensors":
        return None
    size, wanted = path.stat().st_size, whole_size(path)
    if wanted is None:
        return f"{path} is no safetensors file; copy it again"
    if size != wanted:
        return f"{path} has {size} bytes where its head tells of {wanted}; copy the file again"
    return None


def whole_size(path: Path) -> int | None:
    """Return the bytes that a safetensors file must have by its own head; None where it has none.

    8 bytes: n, little-endian | n bytes: JSON, tensor -> data_offsets, shape | tensors
    """
    found = _read_head(path)
    if found is None:
        return None
    length, tensors = found
    return 8 + length + max((int(entry["data_offsets"][1]) for entry in tensors), default=0)


def parameters(folder: Path) -> int | None:
    """Return how many numbers a model's safetensors files hold; None where that is not known."""
    files = weight_files(folder)
    heads = [_read_head(path) for path in files if path.suffix == ".safetensors" and path.is_file()]
    if not files or len(heads) < len(files) or None in heads:
        return None
    return sum(int(math.prod(entry["shape"])) for head in heads if head for entry in head[1])


def _read_head(path: Path) -> tuple[int, list[Any]] | None:
    """Return the length of a safetensors file's head, and what it says of each tensor."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(min(length, path.stat().st_size))
    try:
        head = json.loads(text)
        tensors = [entry for name, entry in head.items() if name != "__metadata__"]
        sound = all(len(entry["data_offsets"]) == 2 and "shape" in entry for entry in tensors)
    except (ValueError, TypeError, AttributeError, LookupError):
        return None
    return (length, tensors) if sound else None


def read_json(path: Path) -> Any:
    """Return what a JSON file holds; None where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
