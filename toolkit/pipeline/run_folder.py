"""What a run folder says of itself: the spec that made it."""

from __future__ import annotations

from pathlib import Path

from toolkit.spec.errors import ToolkitError
from toolkit.spec.load import Examined, examine_spec


def read_spec(run: Path) -> Examined:
    """Read the resolved spec of a run folder; the files it names need not be there.

    Raises:
        ToolkitError: the folder does not exist, or holds no run.
    """
    if not run.is_dir():
        raise ToolkitError(f"{run}: there is no such run folder; give the `out` of a spec")
    resolved = run / "spec.resolved.yaml"
    if not resolved.exists():
        raise ToolkitError(
            f"{run}: not a run folder, it has no spec.resolved.yaml; start a run with "
            "`python -m toolkit run spec.yaml`"
        )
    return examine_spec(resolved, files=False)
