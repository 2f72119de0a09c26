"""Faults planted into the CUDA sources: the emulated C++ tests must fail, in some thread order.

Each fault patches a copy of csrc and compiles, for the host, only the kernel's file and its test;
the rest comes from the library of `make emulated`.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ORDERS = ("forward", "reverse", "shuffled")


@dataclass(frozen=True)
class Fault:
    """Replace `old`, which stands once in `file`, by `new`; the test of `op` must see it."""

    name: str
    op: str
    file: str
    old: str
    new: str


FAULTS = [
    Fault("off by one in the loop over tokens", "whiten", "cuda/token_blocks.cuh",
          "if (i < count) body(i);", "if (i + 1 < count) body(i);"),
    Fault("missing barrier in the merge of a block", "whiten", "cuda/reduce.cuh",
          "shared[thread].merge(shared[thread + half]);\n    __syncthreads();",
          "shared[thread].merge(shared[thread + half]);"),
    Fault("mask ignored", "whiten", "cuda/whiten.cu",
          "if (mask[i]) sums.add(x[i]);", "sums.add(x[i]);"),
    Fault("missing barrier of a cluster", "ppo_loss", "cuda/token_cluster.cuh",
          "  }\n  cluster_sync();\n", "  }\n"),
    Fault("tokens of a cluster's last vector dropped", "ppo_loss", "cuda/token_cluster.cuh",
          "e < kTokenVector && first + e < tokens.count; ++e) {\n    if (!tokens.mask",
          "e < kTokenVector && first + e + 1 < tokens.count; ++e) {\n    if (!tokens.mask"),
    Fault("pairs counted too late", "ranking_loss", "cuda/ranking_block.cuh",
          "  }\n  __syncthreads();\n  double loss = 0;", "  }\n  double loss = 0;"),
    Fault("missing barrier of the grid", "gae", "cuda/row_scan.cuh",
          "  grid_sync();\n", ""),
    Fault("warps behind the next one forgotten", "gae", "cuda/row_scan.cuh",
          "other = row_warps - 1; other > place; --other",
          "other = place + 1; other == place + 1 && other < row_warps; --other"),
    Fault("missing barrier before the draw", "sample", "cuda/sample.cu",
          "  __syncthreads();\n  if (warp == kDrawWarp)", "  if (warp == kDrawWarp)"),
    Fault("off by one at a row's end", "gather_logprobs", "cuda/row_read.cuh",
          "if (index < elements) put", "if (index + 1 < elements) put"),
    Fault("vector taken past a row's end", "gather_logprobs", "cuda/row_read.cuh",
          "last = phase == 0 ? inside : inside - 1;", "last = inside;"),
    Fault("masked rows read", "gather_logprobs", "cuda/gather_logprobs.cu",
          "if (!row_counts(mask, row)) {", "if (row < 0) {"),
]  # fmt: skip


def run(*command, **options):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=100, **options
    )
    return done.returncode, done.stdout + done.stderr


@dataclass(frozen=True)
class Workshop:
    """Where faulty kernels are compiled and their tests run."""

    root: Path
    folder: Path
    compiler: str
    tests: dict[str, Path] = field(default_factory=dict)

    def copy(self, name: str) -> Path:
        """Return a fresh copy of csrc."""
        target = self.folder / name.replace(" ", "_")
        shutil.copytree(self.root / "csrc", target)
        return target

    def compile(self, source: Path, csrc: Path, target: Path) -> Path:
        """Return the object file of one source, its headers taken from `csrc`."""
        flags = ("-std=c++17", "-O1", "-fno-strict-aliasing", "-x", "c++", "-c")
        flags += ("-DRLHF_KERNELS_WITH_CUDA", "-DRLHF_EMULATE_CUDA")
        include = ("-I", csrc / "tests" / "emulation", "-I", csrc)
        code, text = run(self.compiler, *flags, *include, source, "-o", target)
        assert code == 0, text
        return target

    def compile_test(self, op: str) -> Path:
        """Return the object file of the test of `op`, which no fault touches."""
        if op not in self.tests:
            csrc = self.root / "csrc"
            source = csrc / "tests" / "cuda" / f"test_{op}.cpp"
            self.tests[op] = self.compile(source, csrc, self.folder / f"test_{op}.o")
        return self.tests[op]

    def fails_in(self, op: str, csrc: Path) -> list[str]:
        """Build the test of `op` with the kernels of `csrc`; return the orders that it fails in."""
        kernel = self.compile(csrc / "cuda" / f"{op}.cu", csrc, csrc / f"{op}.o")
        test = self.compile_test(op)
        program = csrc / f"test_{op}"
        library = self.root / "build" / "emulated" / "librlhf_core.a"
        code, text = run(self.compiler, kernel, test, library, "-fopenmp", "-o", program)
        assert code == 0, text
        environments = [{**os.environ, "RLHF_EMULATION_ORDER": order} for order in ORDERS]
        return [
            order
            for order, environment in zip(ORDERS, environments, strict=True)
            if run(program, env=environment)[0] != 0
        ]


def plant(csrc: Path, fault: Fault) -> None:
    """Patch the copy; the text must stand there exactly once."""
    path = csrc / fault.file
    text = path.read_text(encoding="utf-8")
    count = text.count(fault.old)
    assert count == 1, f"{fault.file} has {count} places to plant {fault.name!r}, expected one"
    path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")


@pytest.fixture(scope="module")
def workshop(column, root, tmp_path_factory):
    if column.kind != "emulated":
        pytest.skip("faults are planted into the emulated kernels; --emulated runs them")
    build = root / "build" / "emulated"
    code, text = run("cmake", "--build", build, "--target", "rlhf_core")
    assert code == 0, text
    cache = (build / "CMakeCache.txt").read_text(encoding="utf-8")
    (compiler,) = (
        line.partition("=")[2]
        for line in cache.splitlines()
        if line.startswith("CMAKE_CXX_COMPILER:")
    )
    return Workshop(root, tmp_path_factory.mktemp("faults"), compiler)


@pytest.mark.parametrize("op", sorted({fault.op for fault in FAULTS}))
def test_without_a_fault_the_test_passes_in_every_order(op, workshop):
    assert workshop.fails_in(op, workshop.copy(f"none {op}")) == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_fails(fault, workshop):
    csrc = workshop.copy(fault.name)
    plant(csrc, fault)
    failed = workshop.fails_in(fault.op, csrc)
    assert failed, f"{fault.name}: the test of {fault.op} passes in every order"


def test_a_fault_that_does_not_fit_is_an_error(tmp_path):
    (tmp_path / "a.cuh").write_text("twice, twice", encoding="utf-8")
    with pytest.raises(AssertionError, match="has 2 places"):
        plant(tmp_path, Fault("x", "op", "a.cuh", "twice", "once"))
