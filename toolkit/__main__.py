"""`python -m toolkit`: run a command, turn its errors into a message and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from toolkit.cli.parser import dispatch
from toolkit.spec.errors import ToolkitError

# Threads that wait sleep. libgomp lets them spin by default, and two programs on the same cores
# then slow each other down ten times and more; alone the difference is small. Read with torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        return dispatch(sys.argv[1:] if argv is None else argv)
    except ToolkitError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in ("toolkit", "rlhf_kernels"):
            raise
        package = error.name.split(".")[0]
        print(
            f"the package {package} is not installed; run: pip install {package} "
            "(python -m toolkit doctor lists all that is missing)",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has gone (such as `| head`); stdout is replaced so that Python's exit is quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
