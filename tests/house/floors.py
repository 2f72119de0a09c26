"""The floors: who may import or include whom. One table for Python, one for C++.

A name covers a module and everything below it; `name.*` covers only what is below, `name!` only the
module itself. The longest name that fits decides on which floor a module stands. A floor may always
import itself.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Floor:
    """One row of the Python table.

    Args:
        may: names it may import, at module level or inside functions.
        light: importing it must load neither torch nor transformers (`check` and `plan` are quick).
    """

    may: str = ""
    light: bool = False


PYTHON: dict[str, Floor] = {
    # toolkit, downwards: spec -> graph -> stages.
    "toolkit": Floor(light=True),
    "toolkit.__main__": Floor("toolkit.cli toolkit.spec", light=True),
    "toolkit.cli": Floor(
        "toolkit.pipeline toolkit.report toolkit.label toolkit.data.scan toolkit.data.tasks"
        " toolkit.data.oracle"
        " toolkit.spec toolkit!",
        light=True,
    ),
    "toolkit.report": Floor("toolkit.pipeline toolkit.spec", light=True),
    # The page on which people rank: it reads a run folder, and adds to its rankings.
    "toolkit.label": Floor("toolkit.pipeline toolkit.data toolkit.spec", light=True),
    "toolkit.pipeline": Floor(
        "toolkit.stages! toolkit.stages.context toolkit.data.scan toolkit.data.tasks"
        " toolkit.data.oracle toolkit.data.formats toolkit.data.mixture toolkit.data.collected"
        " toolkit.data.lines toolkit.spec toolkit!",
        light=True,
    ),
    # The door: inside `execute` is the one place where the floors above may load torch.
    "toolkit.stages": Floor("toolkit.stages.context toolkit.training.loop", light=True),
    "toolkit.stages.context": Floor("toolkit.spec", light=True),
    "toolkit.stages.*": Floor(
        "toolkit.stages toolkit.training toolkit.rollout toolkit.models toolkit.data toolkit.spec"
        " rlhf_kernels!"
    ),
    "toolkit.rollout": Floor(
        "toolkit.training toolkit.models toolkit.data toolkit.spec rlhf_kernels!"
    ),
    # The loop opens the file of the stage that its context names.
    "toolkit.training.loop": Floor(
        "toolkit.stages toolkit.training toolkit.models.compute toolkit.spec"
    ),
    "toolkit.training.random": Floor(),
    # The device: it asks the kernels whether they have a CUDA column.
    "toolkit.training.device": Floor("toolkit.spec rlhf_kernels!"),
    "toolkit.training": Floor("toolkit.stages.context toolkit.models toolkit.data toolkit.spec"),
    "toolkit.models": Floor(
        "toolkit.training.random toolkit.training.device toolkit.data toolkit.spec rlhf_kernels!"
    ),
    "toolkit.data": Floor("toolkit.spec", light=True),
    "toolkit.data.batches": Floor("toolkit.training.random toolkit.data toolkit.spec"),
    "toolkit.data.shared": Floor("toolkit.data.batches"),
    "toolkit.spec": Floor(light=True),
    # rlhf_kernels: what an op means to PyTorch. Only the registry touches the native module.
    "rlhf_kernels": Floor("rlhf_kernels.ops rlhf_kernels._registry"),
    "rlhf_kernels.ops": Floor("rlhf_kernels._registry"),
    "rlhf_kernels._registry": Floor("rlhf_kernels._C"),
    "rlhf_kernels.reference": Floor(),
    "rlhf_kernels.bench": Floor("rlhf_kernels! rlhf_kernels._registry rlhf_kernels.reference"),
}

#: Packages that make a start slow; never at module level on a light floor.
HEAVY = ("torch", "transformers", "datasets", "tensorboard", "matplotlib", "pandas", "rlhf_kernels")

#: Packages that belong to some floors only.
ONLY = {
    "torch.distributed": ("toolkit.training.parallel",),
    "transformers": ("toolkit.",),
    "omegaconf": ("toolkit.spec", "toolkit.report"),
    "pybind11": (),
}


@dataclass(frozen=True)
class Layer:
    """One row of the C++ table.

    Args:
        may: layers whose headers it may include.
        system: prefixes of angle-bracket headers it may include beyond the standard library.
        standard: the standard headers it may include; None means all of them.
    """

    may: str
    system: tuple[str, ...] = ()
    standard: tuple[str, ...] | None = None


CPP: dict[str, Layer] = {
    "csrc/math": Layer("", (), ("cmath", "cstdint")),
    "csrc/cpu": Layer("csrc csrc/math", ("omp.h", "immintrin.h")),
    "csrc/cuda": Layer("csrc csrc/math", ("cuda",)),
    # math/ for its enumerations (which estimator, which rule for ties), which arguments become.
    "csrc/ops": Layer("csrc csrc/cpu csrc/cuda csrc/math"),
    "csrc/bindings.cpp": Layer("csrc csrc/binding", ("pybind11/", "dlpack")),
    "csrc/binding": Layer("csrc", ("pybind11/", "dlpack")),
    # The stand-in for CUDA's runtime, and nothing of ours.
    "csrc/tests/emulation": Layer("", ("cuda",)),
    "csrc/tests": Layer("csrc csrc/math csrc/cpu csrc/cuda csrc/ops", ("omp.h",)),
    # Headers at the top: tensor.h, ops.h, check.h, dispatch.h.
    "csrc": Layer("", ()),
}

#: Angle-bracket headers that are not the standard library; each needs a row above that allows it.
FOREIGN = ("pybind11/", "dlpack", "cuda", "cub/", "torch/", "ATen/", "c10/", "omp.h", "immintrin.h")
FOREIGN += ("Python.h", "arm_", "thrust/")


def floor_of(module: str, table: dict[str, Floor]) -> str | None:
    """Return the row of `table` that covers `module`, or None."""
    fitting = [name for name in table if covers(name, module)]
    return max(fitting, key=lambda name: (len(name.rstrip(".*")), len(name)), default=None)


def covers(name: str, module: str) -> bool:
    """Say whether a table's `name` covers `module`."""
    if name.endswith("!"):
        return module == name[:-1]
    if name.endswith(".*"):
        return module.startswith(name[:-1])
    return module == name or module.startswith(name + ".")
