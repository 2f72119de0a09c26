"""Edges between Python modules and between C++ files, held against the tables in floors.py."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.house import floors

OURS = ("toolkit", "rlhf_kernels")


@dataclass(frozen=True)
class Import:
    """One imported module: its dotted name, its line, and whether it is loaded at import time."""

    target: str
    line: int
    at_import: bool


def module_name(path: Path, root: Path) -> str:
    """Return the dotted name of a file."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(root: Path, dotted: str) -> bool:
    """Say whether `dotted` is one of our modules rather than a name inside one."""
    path = root.joinpath(*dotted.split("."))
    native = dotted == "rlhf_kernels._C"
    return native or path.with_suffix(".py").is_file() or path.is_dir()


def find_imports(path: Path, root: Path) -> Iterator[Import]:
    """Yield every import of a file, type-checking blocks left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = module_name(path, root).split(".")
    if path.name != "__init__.py":
        package = package[:-1]

    def walk(node: ast.AST, at_import: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, child.lineno, at_import)
            elif isinstance(child, ast.ImportFrom):
                base = ".".join(package[: len(package) - child.level + 1]) if child.level else ""
                source = ".".join(part for part in (base, child.module) if part)
                for alias in child.names:
                    inner = f"{source}.{alias.name}"
                    ours = source.split(".")[0] in OURS and is_module(root, inner)
                    yield Import(inner if ours else source, child.lineno, at_import)
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, at_import and not inside)

    yield from walk(tree, True)


def check_python(root: Path) -> list[str]:
    """Report every import that the Python table does not draw."""
    found = []
    for package in OURS:
        for path in sorted((root / package).rglob("*.py")):
            module = module_name(path, root)
            name = floors.floor_of(module, floors.PYTHON)
            if name is None:
                found.append(f"{path.relative_to(root)}: no row in floors.PYTHON covers it")
                continue
            for item in find_imports(path, root):
                why = judge(module, name, item)
                if why:
                    found.append(f"{path.relative_to(root)}:{item.line}: {why}")
    return found


def judge(module: str, name: str, item: Import) -> str | None:
    """Return what is wrong with one import of `module`, which stands on floor `name`."""
    floor = floors.PYTHON[name]
    top = item.target.split(".")[0]
    if top in OURS:
        target = floors.floor_of(item.target, floors.PYTHON)
        drawn = any(floors.covers(entry, item.target) for entry in floor.may.split())
        if target is None or not (drawn or target == name):
            return f"{name} may not import {item.target}"
        if floor.light and item.at_import and not floors.PYTHON[target].light:
            return f"{item.target} loads torch; {name} may import it only inside a function"
        return None
    if floor.light and item.at_import and top in floors.HEAVY:
        return f"{top} at module level on {name}, which must start without it"
    for package, users in floors.ONLY.items():
        if floors.covers(package, item.target) and not module.startswith(users or ("(nobody)",)):
            return f"{package} may be imported only by {users}"
    return None


INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)


def layer_of(relative: str) -> str:
    """Return the row of the C++ table that covers a file."""
    names = (name for name in floors.CPP if f"{relative}/".startswith(f"{name}/"))
    return max(names, key=len)


def check_cpp(root: Path) -> list[str]:
    """Report every include that the C++ table does not draw."""
    found = []
    for path in sorted((root / "csrc").rglob("*")):
        if path.suffix not in {".h", ".cpp", ".cu", ".cuh"}:
            continue
        relative = path.relative_to(root).as_posix()
        for bracket, header in INCLUDE.findall(path.read_text(encoding="utf-8")):
            why = judge_include(root, path, bracket == '"', header)
            if why:
                found.append(f"{relative}: {why}")
    return found


def judge_include(root: Path, path: Path, quoted: bool, header: str) -> str | None:
    """Return what is wrong with one include."""
    name = layer_of(path.relative_to(root).as_posix())
    layer = floors.CPP[name]
    if quoted:
        places = [path.parent / header, root / "csrc" / header]
        hit = next((place for place in places if place.is_file()), None)
        if hit is None:
            return f'"{header}" is not a file of ours; use <> for others'
        target = layer_of(hit.resolve().relative_to(root.resolve()).as_posix())
        drawn = target == name or target in layer.may.split()
        return None if drawn else f'{name} may not include "{header}" ({target})'
    if header.startswith(floors.FOREIGN):
        return None if header.startswith(layer.system or ("(none)",)) else f"<{header}> in {name}"
    if layer.standard is not None and header not in layer.standard:
        return f"<{header}> in {name}, which includes only {layer.standard}"
    return None
