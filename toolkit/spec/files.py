"""Check that the files, folders and functions a spec names are there; nothing is loaded."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path

from toolkit.spec.kinds import split_function
from toolkit.spec.model_folder import model_fault
from toolkit.spec.model_type import Head, wanted_heads
from toolkit.spec.nearest import nearest_name
from toolkit.spec.schema import Spec
from toolkit.spec.walk import Walker

Finding = tuple[str, str]


def check_files(spec: Spec, walker: Walker) -> None:
    """Report every path and function of `spec` that is not there."""
    for path, message in (*_data(spec), *_models(spec), *_functions(spec), *_sources(spec)):
        place = tuple(path.split("."))
        if place not in walker.broken:
            walker.add(place, message)


def _data(spec: Spec) -> Iterator[Finding]:
    for name in ("demonstrations", "prompts", "rankings", "pretrain"):
        source = getattr(spec.data, name)
        if source is not None and source.path:
            message = _missing(source.path)
            if message:
                yield f"data.{name}.path", message
    if spec.label.file and (message := _missing(spec.label.file)):
        yield "label.file", message


def _models(spec: Spec) -> Iterator[Finding]:
    models = {
        "models.base": spec.models.base,
        "models.reward": spec.models.reward,
        "models.reward_trained": spec.models.reward_trained,
        "label.model": spec.label.model,
    }
    for name, model in models.items():
        message = model and model.path and _missing_model(model.path, wanted_heads(spec, name))
        if message:
            yield f"{name}.path", message
    yield from _text(spec)


def _text(spec: Spec) -> Iterator[Finding]:
    files = {"text.tokenizer": spec.text.tokenizer}
    if (spec.text.template or "").endswith(".jinja"):
        files["text.template"] = spec.text.template
    for path, file in files.items():
        message = file and _missing(file)
        if message:
            yield path, message


def _sources(spec: Spec) -> Iterator[Finding]:
    if spec.collect is None or not spec.ranks:
        return
    for name in spec.collect.sources:
        if name not in ("base", "sft", "ppo") and not (Path(name) / "config.json").is_file():
            near = nearest_name(name, ("base", "sft", "ppo"))
            hint = f'; did you mean "{near}"?' if near else ""
            message = f'"{name}" is not base, sft, ppo or a model folder{hint}'
            yield "collect.sources", message
        elif name not in ("base", "sft", "ppo") and (fault := model_fault(Path(name))):
            yield "collect.sources", fault


def _missing(path: str) -> str | None:
    if Path(path).exists():
        return None
    parent = Path(path).parent
    near = (
        nearest_name(Path(path).name, (p.name for p in parent.iterdir()))
        if parent.is_dir()
        else None
    )
    if near:
        return f'no file "{path}"; did you mean "{parent / near}"?'
    if not parent.is_dir():
        return (
            f'no file "{path}": there is no folder "{parent}"; paths start at the current directory'
        )
    return f'no file "{path}"; paths start at the current directory'


def _missing_model(folder: str, heads: Iterable[Head]) -> str | None:
    message = _missing(folder)
    if message:
        return message.replace("no file", "no folder") + " (a model is a local Hugging Face folder)"
    return model_fault(Path(folder), heads)


def _functions(spec: Spec) -> Iterator[Finding]:
    named = [
        ("label.fn", spec.label.fn, 2),
        ("data.task.fn", spec.data.task and spec.data.task.fn, 0),
        ("ppo.extra_reward.fn", spec.ppo and spec.ppo.extra_reward and spec.ppo.extra_reward.fn, 2),
    ]
    for path, text, arguments in named:
        message = text and _missing_function(text, arguments)
        if message:
            yield path, message


def _missing_function(text: str, arguments: int) -> str | None:
    where, name = split_function(text)
    if not where.endswith(".py"):
        if importlib.util.find_spec(where.split(".")[0]) is None:
            return f'no package "{where.split(".")[0]}"; install it, or name a file.py:function'
        return None
    message = _missing(where)
    if message:
        return message
    try:
        tree = ast.parse(Path(where).read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        line = f" line {error.lineno}" if isinstance(error, SyntaxError) else ""
        return f"{where}{line} is not Python: {error}"
    return _missing_definition(tree, where, name, arguments)


def _missing_definition(tree: ast.Module, where: str, name: str, arguments: int) -> str | None:
    known = {
        node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    }
    other = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    } | {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    if name not in known and name not in other:
        near = nearest_name(name, known)
        return f'{where} has no function "{name}"' + (f'; did you mean "{near}"?' if near else "")
    node = known.get(name)
    if isinstance(node, ast.FunctionDef) and node.args.vararg is None:
        count = len(node.args.posonlyargs) + len(node.args.args)
        if count < arguments:
            return f"{name} takes {count} argument(s); expected (prompts, responses)"
    return None
