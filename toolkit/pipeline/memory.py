"""Peak memory of a stage, where Linux lets a process reset its high-water mark."""

from __future__ import annotations

import resource


def reset_peak() -> bool:
    """Start a new high-water mark; False where the system does not allow it."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5\n")
    except OSError:
        return False
    return True


def peak_memory(*, was_reset: bool) -> tuple[int, str]:
    """Return (bytes, "stage") since `reset_peak`, or (bytes, "process") over the process's life."""
    if was_reset:
        with open("/proc/self/status", encoding="ascii") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024, "stage"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "process"
