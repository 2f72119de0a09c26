"""The house keeps its own rules, and every rule catches a planted fault."""

import subprocess
import sys

import pytest

from tests.house import columns, floors, formulas, imports, text

RULES = {
    "imports": imports.check_python,
    "includes": imports.check_cpp,
    "columns": columns.check_columns,
    "files": text.check_files,
    "functions": text.check_functions,
    "habits": text.check_habits,
    "formulas": formulas.check_formulas,
    "kernels used": formulas.check_kernels_used,
}


@pytest.mark.parametrize("rule", RULES)
def test_the_tree_keeps(rule, root):
    found = RULES[rule](root)
    assert not found, "\n".join(found)


def test_the_rules_see_the_tree(root):
    assert len(list(text.code_files(root))) > 100
    assert len(columns.declared_ops(root)) >= 8
    sizes = [
        size for path in (root / "csrc").rglob("*.cpp") for *_, size in text.cpp_functions(path)
    ]
    assert len(sizes) > 20
    assert max(sizes) > 5


def test_light_floors_start_without_torch(root):
    light = [name for name, floor in floors.PYTHON.items() if floor.light]
    modules = [
        imports.module_name(path, root)
        for path in sorted((root / "toolkit").rglob("*.py"))
        if floors.floor_of(imports.module_name(path, root), floors.PYTHON) in light
        and path.name != "__main__.py"
    ]
    assert len(modules) > 20
    script = (
        f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


PYTHON_FAULTS = {
    "spec reads the pipeline": ("toolkit/spec/a.py", "from toolkit.pipeline import b"),
    "spec reads it lazily": ("toolkit/spec/a.py", "def f():\n    import toolkit.pipeline"),
    "cli skips a floor": ("toolkit/cli/a.py", "from toolkit.stages.ppo import Stage"),
    "pipeline opens a stage": ("toolkit/pipeline/a.py", "from toolkit.stages import ppo"),
    "models read stages": ("toolkit/models/a.py", "import toolkit.stages.ppo as ppo"),
    "the ranking page opens a stage": ("toolkit/label/a.py", "from toolkit.stages import ppo"),
    "training reads the rollout": ("toolkit/training/a.py", "from .. import rollout"),
    "torch in check's path": ("toolkit/pipeline/a.py", "import torch.nn"),
    "transformers in a format": ("toolkit/data/formats.py", "from transformers import AutoModel"),
    "a light floor loads a heavy one": ("toolkit/data/scan.py", "import toolkit.data.batches"),
    "kernels read the toolkit": ("rlhf_kernels/ops/a.py", "import toolkit.spec"),
    "an op touches the native module": ("rlhf_kernels/ops/a.py", "from rlhf_kernels import _C"),
    "kernels use transformers": ("rlhf_kernels/ops/a.py", "import transformers"),
    "a stage is distributed": ("toolkit/stages/a.py", "import torch.distributed"),
    "a floor nobody drew": ("toolkit/serving/a.py", "import toolkit.models"),
}
PLANTED = {
    "toolkit/pipeline/b.py": "",
    "toolkit/stages/ppo.py": "",
    "toolkit/rollout.py": "",
    "toolkit/data/batches.py": "",
}


@pytest.mark.parametrize("fault", PYTHON_FAULTS)
def test_an_import_that_is_not_drawn_is_found(fault, plant):
    path, line = PYTHON_FAULTS[fault]
    assert imports.check_python(plant(PLANTED)) == []
    (found,) = imports.check_python(plant({path: line}))
    assert found.startswith(path)


def test_lazy_and_type_checking_imports_of_torch_are_allowed(plant):
    lazy = "def f():\n    import torch\n"
    typing = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n"
    assert imports.check_python(plant({"toolkit/cli/a.py": lazy + typing})) == []


CPP_FAULTS = {
    "math prints": ("csrc/math/a.h", "#include <cstdio>"),
    "math reads a loop": ("csrc/math/a.h", '#include "cpu/b.h"'),
    "a loop reads the binding": ("csrc/cpu/a.cpp", "#include <pybind11/pybind11.h>"),
    "a loop reads another floor": ("csrc/cpu/a.cpp", '#include "ops/b.h"'),
    "cuda outside its folder": ("csrc/cpu/a.cpp", "#include <cuda_runtime.h>"),
    "torch in the core": ("csrc/ops/a.cpp", "#include <torch/extension.h>"),
    "the binding reads a formula": ("csrc/bindings.cpp", '#include "math/b.h"'),
    "a file that is not there": ("csrc/ops/a.cpp", '#include "nowhere.h"'),
}


@pytest.mark.parametrize("fault", CPP_FAULTS)
def test_an_include_that_is_not_drawn_is_found(fault, plant):
    path, line = CPP_FAULTS[fault]
    plant({f"csrc/{folder}/b.h": "" for folder in ("cpu", "ops", "math")})
    (found,) = imports.check_cpp(plant({path: f"{line}\n"}))
    assert found.startswith(path)


@pytest.mark.parametrize("kind", columns.COLUMNS)
def test_a_missing_sibling_file_is_found(kind, plant):
    files = {pattern.format(op="gae"): "" for pattern in columns.COLUMNS[kind]}
    files["rlhf_kernels/ops/gae.py"] = f'declare("gae", "{kind}")\n'
    tree = plant(files)
    assert columns.check_columns(tree) == []
    for name in files:
        if name == "rlhf_kernels/ops/gae.py":
            continue
        (tree / name).unlink()
        assert columns.check_columns(tree) == [f"gae ({kind}) lacks {name}"]
        (tree / name).touch()


def test_an_op_of_no_kind_and_an_undeclared_op_are_found(plant):
    tree = plant({"rlhf_kernels/ops/a.py": 'declare("a", "magic")\n', "rlhf_kernels/ops/b.py": ""})
    first, second = columns.check_columns(tree)
    assert "unknown kind 'magic'" in first
    assert "b.py declares no op" in second


def test_long_files_and_other_alphabets_are_found(plant):
    tree = plant({"toolkit/a.py": "x = 1\n" * 301, "csrc/b.h": "// caf\u00e9\n"})
    assert text.check_files(tree) == [
        "csrc/b.h:1: non-ASCII character U+00E9",
        "toolkit/a.py: 301 lines, at most 300; split it",
    ]


def test_an_exempt_file_has_a_limit_too(plant, monkeypatch):
    monkeypatch.setitem(text.LONG, "toolkit/a.py", "a reason")
    assert text.check_files(plant({"toolkit/a.py": "x = 1\n" * 400})) == []
    (found,) = text.check_files(plant({"toolkit/a.py": "x = 1\n" * 401}))
    assert "at most 400" in found


def test_long_functions_are_found(plant):
    body = "    x = 1\n"
    text_of_f = '    """Do.\n\n    More.\n    """\n'
    tree = plant({"toolkit/a.py": "def f():\n" + text_of_f + body * 60 + "def g():\n" + body * 3})
    first, median = text.check_functions(tree)
    assert first == "toolkit/a.py:1: f has 61 lines, at most 60"
    assert median == "toolkit/: the median function has 32.5 lines"


def test_long_cpp_functions_are_found(plant):
    loop = "  for (int i = 0; i < 2; ++i) { y += i; }\n" * 60
    source = (
        "// void not_one() {\n#define M(a) { \\\n  a }\nnamespace n {\nstruct S {\n"
        "  int get() const { return 1; }\n};\ntemplate <typename T>\nvoid f(T x) {\n"
        + loop
        + "}\n}\n"
    )
    tree = plant({"csrc/cpu/a.cpp": source})
    assert list(text.cpp_functions(tree / "csrc/cpu/a.cpp")) == [
        ("int get", 6, 1),
        ("void f", 8, 63),
    ]
    assert text.check_functions(tree)[0].startswith("csrc/cpu/a.cpp:8: void f has 63 lines")


HABITS = {
    "leftover": "# TODO: later",
    "machine path": 'x = "/root/x"',
    "vacuous tolerance": "close(a, b, rtol=1e6)",
    "swallowed exception": "try:\n    f()\nexcept ValueError:\n    pass",
}


@pytest.mark.parametrize("habit", HABITS)
def test_a_bad_habit_is_found(habit, plant):
    (found,) = text.check_habits(plant({"toolkit/a.py": HABITS[habit] + "\n"}))
    assert habit in found


def test_small_tolerances_pass(plant):
    fine = "close(a, b, rtol=1e-5, atol=0.01)\nclose(a, b, atol=5e-3, rtol=0)\n"
    assert text.check_habits(plant({"tests/a.py": fine})) == []


FORMULAS = {
    "a log-softmax": "torch.log_softmax(logits, -1)",
    "a method": "x = logits.log_softmax(-1)",
    "the losses of torch": "import torch.nn.functional as F\nF.cross_entropy(logits, targets)",
    "a bare name": "from torch import logsumexp\nlogsumexp(x, 1)",
    "a ratio": "ratio = (logprobs - old).exp()",
    "k3": "torch.expm1(-d) + d",
    "a clipped ratio": "ratio.clamp(0.8, 1.2)",
    "a ranking loss": "-F.logsigmoid(better - worse)",
    "whitening": "(x - x.mean()) / (x.std() + 1e-8)",
    "the loss of transformers": "model(ids, labels=ids).loss",
}


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_formula_in_the_toolkit_is_found(formula, plant):
    (found,) = formulas.check_formulas(plant({"toolkit/stages/ppo.py": FORMULAS[formula] + "\n"}))
    assert found.startswith("toolkit/stages/ppo.py:")


def test_kernels_and_floats_are_allowed(plant):
    fine = "rk.cross_entropy(logits, targets)\nmath.exp(loss)\n"
    assert formulas.check_formulas(plant({"toolkit/stages/sft.py": fine})) == []


def test_a_term_that_skips_the_kernels_is_found(plant, root):
    calls = "\n".join(f"rk.{min(row)}()" for rows in formulas.USED.values() for row in rows)
    tree = {"toolkit/models/a.py": calls, "toolkit/stages/a.py": calls}
    assert formulas.check_kernels_used(plant(tree)) == []
    tree["toolkit/stages/a.py"] = calls.replace("rk.gae()", "my_gae()")
    assert formulas.check_kernels_used(plant(tree)) == ["toolkit/stages: nothing calls gae"]
