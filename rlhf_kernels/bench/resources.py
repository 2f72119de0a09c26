"""Print what ptxas says of each CUDA kernel: registers, shared memory, spills, stack.

    python -m rlhf_kernels.bench.resources [build] [--write docs/KERNELS.md]

Reads the `*.ptxas` files that csrc/record_ptxas.py leaves beside the object files. Shared memory
is what a kernel declares; what a launch asks for besides is not in ptxas's report.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

BEGIN = "<!-- python -m rlhf_kernels.bench.resources: begin -->"
END = "<!-- end -->"

ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
PROPERTIES = re.compile(
    r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
)
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What one kernel of one architecture uses; bytes, except for registers."""

    source: str
    kernel: str
    arch: str
    registers: int
    shared: int
    stack: int
    spill_stores: int
    spill_loads: int

    @property
    def in_local_memory(self) -> bool:
        """Whether it keeps anything in local memory."""
        return bool(self.stack or self.spill_stores or self.spill_loads)


def parse_report(text: str, source: str) -> list[Usage]:
    """Return one Usage per entry function of a report of `ptxas -v`.

    Raises:
        ValueError: an entry function has no line with its registers.
    """
    found = []
    parts = ENTRY.split(text)
    for mangled, arch, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        used, frame = USED.search(body), PROPERTIES.search(body)
        if used is None or frame is None:
            raise ValueError(f"{source}: ptxas says nothing of the registers of {mangled}")
        shared = SHARED.search(body)
        stack, stores, loads = (int(number) for number in frame.groups())
        found.append(
            Usage(
                source=source,
                kernel=mangled,
                arch=arch,
                registers=int(used[1]),
                shared=int(shared[1]) if shared else 0,
                stack=stack,
                spill_stores=stores,
                spill_loads=loads,
            )
        )
    return found


def read_reports(folder: Path) -> list[Usage]:
    """Return every kernel's usage under `folder`; of several builds of one, the latest."""
    latest: dict[tuple[str, str], Usage] = {}
    for path in sorted(folder.rglob("*.ptxas"), key=lambda path: path.stat().st_mtime):
        source = path.name.partition(".")[0]
        for usage in parse_report(path.read_text(encoding="utf-8"), source):
            latest[source + usage.kernel, usage.arch] = usage
    names = demangle({usage.kernel for usage in latest.values()})
    named = [Usage(**{**vars(usage), "kernel": names[usage.kernel]}) for usage in latest.values()]
    return sorted(named, key=lambda usage: (usage.source, usage.kernel, usage.arch))


def demangle(symbols: Iterable[str]) -> dict[str, str]:
    """Return short readable names: by c++filt where it is installed, else from the symbol."""
    mangled = sorted(symbols)
    tool = shutil.which("c++filt") or shutil.which("cu++filt")
    if tool is None or not mangled:
        return {symbol: read_symbol(symbol) for symbol in mangled}
    text = "\n".join(mangled)
    done = subprocess.run([tool], input=text, capture_output=True, text=True, check=True)
    return {s: shorten(full) for s, full in zip(mangled, done.stdout.splitlines(), strict=True)}


def shorten(signature: str) -> str:
    """Return a demangled kernel's name with its template arguments, without the rest."""
    name = re.sub(r"\(anonymous namespace\)::|\b(?:rlhf|cuda|math|ops)::", "", signature)
    name = name.removeprefix("void ")
    depth = 0
    for place, character in enumerate(name):
        depth += (character == "<") - (character == ">")
        if character == "(" and depth == 0:
            return name[:place]
    return name


def read_symbol(symbol: str) -> str:
    """Return the kernel's name and the type names in a mangled symbol, in order of appearance."""
    names, place = [], 0
    while match := re.compile(r"(\d+)(?=[A-Za-z_])").search(symbol, place):
        start, length = match.end(), int(match[1])
        names.append(symbol[start : start + length])
        place = start + length
    kernels = [place for place, name in enumerate(names) if name.endswith("kernel")]
    if not kernels:
        return symbol
    types = [name for name in names[kernels[0] + 1 :] if name in ("Half", "BFloat16")]
    return names[kernels[0]] + f"<{types[0] if types else 'float'}>"


def make_table(usages: Sequence[Usage]) -> str:
    """Return a table in Markdown: a line per kernel template, the largest of its instances."""
    arches = sorted({usage.arch for usage in usages})
    groups: dict[tuple[str, str], list[Usage]] = {}
    for usage in usages:
        groups.setdefault((usage.source, usage.kernel.partition("<")[0]), []).append(usage)
    lines = [
        "| source | kernel | instances | "
        + " | ".join(f"registers {arch}" for arch in arches)
        + " | shared | spills | stack |",
        "|---|---|---|" + "---|" * (len(arches) + 3),
    ]
    for (source, kernel), members in groups.items():
        registers = [
            max((m.registers for m in members if m.arch == arch), default=0) for arch in arches
        ]
        cells = [
            f"{source}.cu",
            f"`{kernel}`",
            len({m.kernel for m in members}),
            *registers,
            max(m.shared for m in members),
            max(m.spill_stores + m.spill_loads for m in members),
            max(m.stack for m in members),
        ]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def write_into(path: Path, table: str) -> None:
    """Replace what stands between the markers of a document.

    Raises:
        ValueError: the document does not have the markers.
    """
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path}: the lines {BEGIN} and {END} are missing")
    path.write_text(f"{before}{BEGIN}\n{table}{END}{after}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; exit with 1 if a kernel spills or keeps a stack frame."""
    parser = argparse.ArgumentParser(
        prog="python -m rlhf_kernels.bench.resources", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path("build"))
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into a document")
    options = parser.parse_args(arguments)
    usages = read_reports(options.folder)
    if not usages:
        parser.error(
            f"{options.folder} holds no *.ptxas: build with nvcc on PATH (RLHF_KERNELS_CUDA=ON)"
        )
    table = make_table(usages)
    print(table, end="")
    if options.write:
        write_into(options.write, table)
    local = [usage for usage in usages if usage.in_local_memory]
    for usage in local:
        print(f"{usage.source}.cu: {usage.kernel} on {usage.arch} uses local memory")
    print(f"{len(usages)} kernels, {len(local)} of them in local memory")
    return 1 if local else 0


if __name__ == "__main__":
    sys.exit(main())
