"""A byte-level tokenizer folder, files of records, and specs that read them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.spec.schema import Data, DataFile, Spec, Split, Text

TOKENIZER = Path(__file__).parents[1] / "golden" / "broken_data" / "tokenizer"


@pytest.fixture
def byte_tokenizer() -> Path:
    """A tokenizer with a token per byte, and <|endoftext|> as id 256; no padding token."""
    return TOKENIZER


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Write records as JSON Lines: write("a.jsonl", {...}, {...}) returns the path."""

    def write_file(name: str, *records: dict) -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return str(path)

    return write_file


@pytest.fixture
def spec_of(byte_tokenizer: Path) -> Callable[..., Spec]:
    """Make a spec over files: spec_of(demonstrations=path, valid=0.5)."""

    def make(
        *,
        valid: float = 0.0,
        by: str = "user",
        seed: int = 1,
        text: dict | None = None,
        **files: str,
    ) -> Spec:
        made = {kind: DataFile(path=path) for kind, path in files.items()}
        return Spec(
            seed=seed,
            text=Text(
                **(
                    {"tokenizer": str(byte_tokenizer), "template": "{prompt}{response}"}
                    | (text or {})
                )
            ),
            data=Data(split=Split(valid=valid, by=by), **made),
        )

    return make
