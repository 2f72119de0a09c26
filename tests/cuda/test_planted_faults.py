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
    """Replace `old`, which stands once in `file`, by `new`.

    The test of `op` must see it, or the one of that op's kernel which `test` names.
    """

    name: str
    op: str
    file: str
    old: str
    new: str
    test: str = ""

    @property
    def seen_by(self) -> str:
        return self.test or self.op


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
          "  __syncthreads();\n  if (warp_index() == kDrawWarp)",
          "  if (warp_index() == kDrawWarp)"),
    Fault("off by one at a row's end", "gather_logprobs", "cuda/row_read.cuh",
          "if (index < elements) put", "if (index + 1 < elements) put"),
    Fault("vector taken past a row's end", "gather_logprobs", "cuda/row_read.cuh",
          "last = phase == 0 ? inside : inside - 1;", "last = inside;"),
    Fault("masked rows read", "gather_logprobs", "cuda/gather_logprobs.cu",
          "if (!row_counts(mask, row)) {", "if (row < 0) {"),
    Fault("sums not scaled when the maximum rises", "gather_logprobs", "cuda/row_stream.cuh",
          "weighted[part] = fmaf(rest[part], change, weighted[part]) * factor;\n"
          "      rest[part] *= factor;", "", "row_stream"),
    Fault("entries at the maximum counted twice", "gather_logprobs", "cuda/row_stream.cuh",
          "  if (found > 0) *word = Packed<S>::pack(low, high);\n", "", "row_stream"),
    Fault("extreme shares not read again", "gather_logprobs", "cuda/row.cuh",
          "if (!is_extreme(static_cast<float>(sums->max), scale)) return;",
          "if (sums != nullptr) return;", "row_stream"),
    Fault("sums kept where their offset changes", "exact_kl", "cuda/row_pair.cuh",
          "shift_sums(change, less, a[part], &d[part], &g[part]);", "", "row_pair"),
    Fault("offsets of warps taken for the same", "exact_kl", "cuda/row_pair.cuh",
          "if (counts && moved != 0) shift_sums(", "if (false) shift_sums(", "row_pair"),
    Fault("all rows taken to be alike", "exact_kl", "cuda/row_pair.cuh",
          "shared->alike = whole &&", "shared->alike = true || whole &&", "row_pair"),
    Fault("series used where rows are apart", "exact_kl", "cuda/row_pair.cuh",
          "if (near) return lane->add_near(", "if (true) return lane->add_near(", "row_pair"),
    Fault("slot not filled past a share's end", "ppo_loss_from_logits", "cuda/row_resident.cuh",
          "if (chunk + 1 == chunks()) fill_past_end(", "if (false) fill_past_end(",
          "resident_rows"),
    Fault("last granule of a chunk not loaded", "ppo_loss_from_logits", "cuda/row_resident.cuh",
          "min(origin + count + 1, place.count)", "min(origin + count, place.count)",
          "resident_rows"),
    Fault("only the first chunk waited for", "ppo_loss_from_logits", "cuda/row_resident.cuh",
          "barrier_wait(&barriers_[chunk], 0);", "barrier_wait(&barriers_[0], 0);",
          "resident_rows"),
    Fault("what shares a row's first granule overwritten", "ppo_loss_from_logits",
          "cuda/objective_resident.cuh", "begin_whole = place.phase == 0 ? 0 : 1;",
          "begin_whole = 0;", "resident_rows"),
    Fault("missing barrier before the gradient", "ppo_loss_from_logits",
          "cuda/objective_resident.cuh", "  __syncthreads();\n  const RowGradient& gradient",
          "  const RowGradient& gradient", "resident_rows"),
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

    def compile_test(self, name: str) -> Path:
        """Return the object file of a test, which no fault touches."""
        if name not in self.tests:
            csrc = self.root / "csrc"
            source = csrc / "tests" / "cuda" / f"test_{name}.cpp"
            self.tests[name] = self.compile(source, csrc, self.folder / f"test_{name}.o")
        return self.tests[name]

    def fails_in(self, op: str, name: str, csrc: Path) -> list[str]:
        """Build a test with the kernel of `op` in `csrc`; return the orders that it fails in."""
        kernel = self.compile(csrc / "cuda" / f"{op}.cu", csrc, csrc / f"{op}.o")
        test = self.compile_test(name)
        program = csrc / f"test_{name}"
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


@pytest.mark.parametrize(("op", "name"), sorted({(f.op, f.seen_by) for f in FAULTS}))
def test_without_a_fault_the_test_passes_in_every_order(op, name, workshop):
    assert workshop.fails_in(op, name, workshop.copy(f"none {name}")) == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_fails(fault, workshop):
    csrc = workshop.copy(fault.name)
    plant(csrc, fault)
    failed = workshop.fails_in(fault.op, fault.seen_by, csrc)
    assert failed, f"{fault.name}: test_{fault.seen_by} passes in every order"


def test_a_fault_that_does_not_fit_is_an_error(tmp_path):
    (tmp_path / "a.cuh").write_text("twice, twice", encoding="utf-8")
    with pytest.raises(AssertionError, match="has 2 places"):
        plant(tmp_path, Fault("x", "op", "a.cuh", "twice", "once"))
