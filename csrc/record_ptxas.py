"""Run a CUDA compile command and keep what ptxas says of each kernel beside the object file.

CMake calls this as the compiler's launcher: `record_ptxas.py nvcc ... -o x.o` also writes
`x.o.ptxas`, from which `rlhf_kernels.bench.resources` makes the table of registers and spills.
"""

import subprocess
import sys
from pathlib import Path


def main(command: list[str]) -> int:
    """Run the command; pass on everything but ptxas's report."""
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    lines = done.stderr.splitlines(keepends=True)
    report = [line for line in lines if "ptxas info" in line or "bytes stack frame" in line]
    if report and "-o" in command:
        output = Path(command[command.index("-o") + 1])
        output.with_name(output.name + ".ptxas").write_text("".join(report), encoding="utf-8")
    sys.stderr.writelines(line for line in lines if line not in report)
    return done.returncode


sys.exit(main(sys.argv[1:]))
