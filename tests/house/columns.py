"""One name, one column: the files that every op must have, by the kind it declares."""

from __future__ import annotations

import ast
from pathlib import Path

PYTHON_SIDE = (
    "rlhf_kernels/ops/{op}.py",
    "rlhf_kernels/reference/{op}.py",
    "rlhf_kernels/bench/bench_{op}.py",
    "tests/ops/test_{op}.py",
)
CPU_SIDE = (
    "csrc/math/{op}.h",
    "csrc/cpu/{op}.cpp",
    "csrc/ops/{op}.cpp",
    "csrc/tests/test_{op}.cpp",
)

CUDA_SIDE = (
    "csrc/cuda/{op}.h",
    "csrc/cuda/{op}.cu",
    "csrc/tests/cuda/test_{op}.cpp",
)

COLUMNS: dict[str, tuple[str, ...]] = {
    "native": (*CPU_SIDE, *CUDA_SIDE, *PYTHON_SIDE),
    "native-cpu": (*CPU_SIDE, *PYTHON_SIDE),
    "composite": PYTHON_SIDE,
}


def declared_ops(root: Path) -> dict[str, str]:
    """Return op -> kind, from the `declare(name, kind)` calls in rlhf_kernels/ops."""
    kinds = {}
    for path in sorted((root / "rlhf_kernels" / "ops").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not ast.unparse(node.func).endswith("declare"):
                continue
            name, kind = (ast.literal_eval(argument) for argument in node.args)
            kinds[name] = kind
    return kinds


def check_columns(root: Path) -> list[str]:
    """Report every file that an op's column lacks, and op modules that declare nothing."""
    kinds = declared_ops(root)
    found = []
    for op, kind in kinds.items():
        if kind not in COLUMNS:
            found.append(f"{op}: unknown kind {kind!r}, expected one of {sorted(COLUMNS)}")
            continue
        paths = [pattern.format(op=op) for pattern in COLUMNS[kind]]
        found += [f"{op} ({kind}) lacks {path}" for path in paths if not (root / path).is_file()]
    for path in sorted((root / "rlhf_kernels" / "ops").glob("[!_]*.py")):
        if path.stem not in kinds:
            found.append(f"rlhf_kernels/ops/{path.name} declares no op of that name")
    return found
