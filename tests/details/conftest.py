"""The tiny vocabulary, and a tiny run up to its reward model."""

import pytest

from tests.end_to_end import run_tiny
from tests.stages.test_kernels_used import context
from tests.tiny import tiny_text
from toolkit.stages.ppo import PPO
from toolkit.training.loop import configure


@pytest.fixture(scope="session")
def text():
    return tiny_text()


@pytest.fixture(scope="session")
def stages(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    run_tiny(out, until="reward")
    return out / "stages"


@pytest.fixture
def ppo(stages, tmp_path):
    """Make PPO of the tiny run ready for its first iteration: ppo(*overrides)."""
    made = []

    def ready(*overrides):
        work = tmp_path / f"work{len(made)}"
        work.mkdir()
        ctx = context(stages, "ppo", work, *overrides)
        configure(ctx)
        made.append(PPO(ctx))
        made[-1].setup()
        return made[-1]

    return ready
