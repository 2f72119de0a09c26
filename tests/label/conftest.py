from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.label.served import Client, make_waiting, served
from toolkit.pipeline.people import Waiting


@pytest.fixture
def waiting(tmp_path: Path) -> Waiting:
    """Twenty prompts with four different answers each."""
    return make_waiting(tmp_path)


@pytest.fixture
def client(waiting: Waiting) -> Iterator[Client]:
    """A served desk."""
    with served(waiting) as found:
        yield found


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Waiting]:
    """Make a stage that waits, with settings of `label`."""
    return lambda **label: make_waiting(tmp_path, **label)
