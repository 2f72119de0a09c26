"""Sizes and habits of the text itself: lengths, ASCII, leftovers, machine paths, tolerances."""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

CODE = {".py", ".pyi", ".h", ".cpp", ".cu", ".cuh"}
FOLDERS = ("csrc", "rlhf_kernels", "toolkit", "specs", "tests")
TOP = ("setup.py",)

FILE_LINES, FILE_LINES_HARD = 300, 400
FUNCTION_LINES, MEDIAN_LINES = 60, 12

#: Files over 300 lines, each with its reason; 400 holds for these too.
LONG = {
    "toolkit/spec/schema.py": "the vocabulary reads best in one place",
}


def code_files(root: Path) -> Iterator[Path]:
    """Yield every source file of the tree."""
    for folder in FOLDERS:
        yield from sorted(p for p in (root / folder).rglob("*") if p.suffix in CODE and p.is_file())
    yield from (root / name for name in TOP if (root / name).is_file())


def check_files(root: Path) -> list[str]:
    """Report files that are too long, and characters beyond ASCII."""
    found = []
    for path in code_files(root):
        name = path.relative_to(root).as_posix()
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        limit = FILE_LINES_HARD if name in LONG else FILE_LINES
        if len(lines) > limit:
            found.append(f"{name}: {len(lines)} lines, at most {limit}; split it")
        for number, line in enumerate(lines, 1):
            if not line.isascii():
                odd = next(character for character in line if not character.isascii())
                found.append(f"{name}:{number}: non-ASCII character U+{ord(odd):04X}")
    return found


def python_functions(path: Path) -> Iterator[tuple[str, int, int]]:
    """Yield (name, first line, number of lines) of every function of a Python file.

    A docstring does not count: a public op has to state shapes, units, errors and source.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            yield node.name, node.lineno, size - docstring_lines(node)


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many lines a function's docstring takes."""
    if ast.get_docstring(node, clean=False) is None:
        return 0
    return (node.body[0].end_lineno or 0) - node.body[0].lineno + 1


COMMENTS = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\'', re.DOTALL)
DIRECTIVES = re.compile(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", re.MULTILINE)
NOT_A_FUNCTION = re.compile(r"^(namespace|class|struct|enum|union|extern)\b|=\s*$")


def blank(match: re.Match[str]) -> str:
    """Replace a match by its line breaks."""
    return "\n" * match.group().count("\n")


def cpp_functions(path: Path) -> Iterator[tuple[str, int, int]]:
    """Yield (head, first line, number of lines) of every function of a C++ file, by its braces."""
    text = DIRECTIVES.sub(blank, COMMENTS.sub(blank, path.read_text(encoding="utf-8")))
    stack: list[tuple[str, int] | None] = []
    head, line, head_line = "", 1, 1
    for character in text:
        line += character == "\n"
        if character == "{":
            outside = not any(stack)
            head = re.sub(r"^template\s*<[^{;]*?>\s*(?=\w)", "", head.strip())
            is_function = outside and "(" in head and not NOT_A_FUNCTION.search(head)
            stack.append((head.split("(")[0].strip(), head_line) if is_function else None)
        elif character == "}" and stack:
            entry = stack.pop()
            if entry is not None:
                yield entry[0], entry[1], line - entry[1] + 1
        if character in "{};":
            head = ""
        else:
            head_line = line if not head.strip() else head_line
            head += character


def check_functions(root: Path) -> list[str]:
    """Report functions that are too long, and a package whose median function is."""
    found = []
    for folder in FOLDERS:
        sizes = []
        for path in code_files(root):
            name = path.relative_to(root).as_posix()
            if not name.startswith(folder + "/"):
                continue
            functions = python_functions if path.suffix in {".py", ".pyi"} else cpp_functions
            for function, line, size in functions(path):
                sizes.append(size)
                if size > FUNCTION_LINES:
                    found.append(f"{name}:{line}: {function} has {size} lines, at most 60")
        if sizes and statistics.median(sizes) > MEDIAN_LINES:
            found.append(f"{folder}/: the median function has {statistics.median(sizes)} lines")
    return found


LEFTOVER = re.compile(r"\b(TODO|FIXME|XXX|HACK|NotImplementedError)\b")
MACHINE_PATH = re.compile(r"(?<![\w/.])/(?:work|tmp|root|home)/")
VACUOUS = re.compile(r"\b(?:r|a)tol\s*=\s*(?:[1-9]|0?\.[5-9])(?![\d.]*e-)")

#: These name the habits in order to find them.
RULES_THEMSELVES = ("tests/house/", "tests/test_architecture.py")


def check_habits(root: Path) -> list[str]:
    """Report leftover-work markers, machine paths, vacuous tolerances and swallowed exceptions."""
    found = []
    rules = {"leftover": LEFTOVER, "machine path": MACHINE_PATH, "vacuous tolerance": VACUOUS}
    for path in code_files(root):
        name = path.relative_to(root).as_posix()
        if name.startswith(RULES_THEMSELVES):
            continue
        text = path.read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), 1):
            found += [
                f"{name}:{number}: {what}: {line.strip()[:60]}"
                for what, pattern in rules.items()
                if pattern.search(line)
            ]
        if path.suffix == ".py":
            found += [
                f"{name}:{node.lineno}: swallowed exception"
                for node in ast.walk(ast.parse(text))
                if isinstance(node, ast.ExceptHandler)
                and len(node.body) == 1
                and isinstance(node.body[0], ast.Pass)
            ]
    return found
