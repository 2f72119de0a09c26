"""`python -m toolkit`: run a command, turn its errors into a message and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from toolkit.cli.parser import dispatch
from toolkit.spec.errors import ToolkitError, system_error_text

# Threads that wait sleep. libgomp lets them spin by default, and two programs on the same cores
# then slow each other down ten times and more; alone the difference is small. Read with torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = sys.argv[1:] if argv is None else argv
    try:
        return dispatch(words)
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
    except Exception as error:
        print(_unforeseen(words, error), file=sys.stderr)
        return 1


def _unforeseen(words: Sequence[str], error: Exception) -> str:
    """Return a sentence on an error that is none of ours, the traceback before it if it is a fault.

    What happens inside a stage the pipeline explains itself.
    """
    known = system_error_text(error) if isinstance(error, OSError) else None
    if known is not None:
        return known
    trace = "".join(traceback.format_exception(error))
    return (
        f"{trace}{words[0]} stopped by an unforeseen {type(error).__name__}: {error}; this is a "
        "fault of the toolkit: report it with the lines above; what is finished is kept"
    )


if __name__ == "__main__":
    sys.exit(main())
