from __future__ import annotations

import pytest

import toolkit.stages
from tests.pipeline.fakes import Stages


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    """Stages that need no torch."""
    fake = Stages()
    monkeypatch.setattr(toolkit.stages, "execute", fake)
    return fake
