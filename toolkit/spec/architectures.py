"""What transformers can build, read from its sources; importing it would take seconds."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from pathlib import Path

_COMMON = {"attn_implementation", "head_dim", "num_labels", "rope_theta", "rope_scaling"}
"""Settings that reach a configuration without being a field of its class."""

_TYPE = re.compile(r'"([\w.-]+)"[,:]\s*"\w+Config"\s*[,)}]')
"""An entry of transformers' tables, ("gpt2", "GPT2Config") or "gpt2": "GPT2Config"."""

_CLASS = re.compile(r'"([\w.-]+)"[,:]\s*"')
"""The same with a model's class."""


@functools.cache
def _package() -> Path | None:
    spec = importlib.util.find_spec("transformers")
    return Path(spec.origin).parent if spec and spec.origin else None


@functools.cache
def architecture_names() -> frozenset[str]:
    """Return the architectures transformers knows; empty when it is not installed."""
    package = _package()
    if package is None:
        return frozenset()
    folders = (package / "models").iterdir()
    return frozenset(f.name for f in folders if (f / f"configuration_{f.name}.py").is_file())


@functools.cache
def model_types() -> frozenset[str]:
    """Return every `model_type` of a config.json that transformers knows.

    Empty when it is not installed, or keeps its tables elsewhere.
    """
    package = _package()
    if package is None:
        return frozenset()
    files = (package / "models" / "auto").glob("*.py")
    tables = [file for file in files if file.stem in ("auto_mappings", "configuration_auto")]
    texts = [file.read_text(encoding="utf-8") for file in tables]
    return frozenset(name for text in texts for name in _TYPE.findall(text))


@functools.cache
def types_with(head: str) -> frozenset[str]:
    """Return every `model_type` that transformers has a model with this head of.

    Empty when it is not installed, or keeps its tables elsewhere.

    Args:
        head: of one of its tables, such as CAUSAL_LM.
    """
    package = _package()
    file = package / "models" / "auto" / "modeling_auto.py" if package is not None else None
    if file is None or not file.is_file():
        return frozenset()
    text = file.read_text(encoding="utf-8")
    table = re.search(rf"^MODEL_FOR_{head}_MAPPING_NAMES\b.*?^\)", text, re.DOTALL | re.MULTILINE)
    return frozenset(_CLASS.findall(table[0])) if table else frozenset()


def config_keys(architecture: str) -> frozenset[str]:
    """Return the settings of an architecture, or none when they cannot be told from its source."""
    package = _package()
    name = architecture.replace("-", "_")
    if package is None:
        return frozenset()
    own = _class_keys(package / "models" / name / f"configuration_{name}.py", name)
    base = _class_keys(package / "configuration_utils.py", "")
    return own | base | _COMMON if own and base else frozenset()


@functools.cache
def _class_keys(file: Path, model_type: str) -> frozenset[str]:
    """Return annotated fields, init arguments and aliases of the configuration class in `file`.

    The class is the one whose `model_type` matches. Configurations that inherit from another
    architecture's give nothing.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in tree.body:
        if not isinstance(node, ast.ClassDef) or not node.name.endswith("Config"):
            continue
        if model_type and not _is_plain(node):
            continue
        keys = _fields(node)
        if not model_type or f"'{model_type}'" in _model_type(node):
            return frozenset(keys)
    return frozenset()


def _is_plain(node: ast.ClassDef) -> bool:
    names = {base.id for base in node.bases if isinstance(base, ast.Name)}
    return bool(names & {"PreTrainedConfig", "PretrainedConfig"})


def _model_type(node: ast.ClassDef) -> str:
    for item in node.body:
        if isinstance(item, ast.Assign) and ast.unparse(item.targets[0]) == "model_type":
            return ast.unparse(item.value).replace("-", "_")
    return ""


def _fields(node: ast.ClassDef) -> set[str]:
    keys: set[str] = set()
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            keys.add(item.target.id)
        elif isinstance(item, ast.Assign) and ast.unparse(item.targets[0]) == "attribute_map":
            keys |= set(ast.literal_eval(item.value))
        elif isinstance(item, ast.FunctionDef) and item.name == "__init__":
            keys |= {argument.arg for argument in [*item.args.args, *item.args.kwonlyargs]}
    return keys - {"self"}
