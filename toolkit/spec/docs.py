"""Make docs/SPEC.md from the schema: `python -m toolkit.spec.docs > docs/SPEC.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from toolkit.spec.expected import inline, type_text
from toolkit.spec.layers import PRESETS, preset_names
from toolkit.spec.schema import Spec
from toolkit.spec.vocabulary import KeyInfo, all_paths, keys_of
from toolkit.spec.yaml_tree import read_layer

_HEAD = """# The spec

Every key a spec can have. Made from `toolkit/spec/schema.py` and the files it imports by
`make specs`; edit those.

- Units and sources stand in the texts; "C.1" to "C.4" are appendix sections of InstructGPT
  (arXiv:2203.02155).
- A section that may be null is off when it is null. `ppo: {}` turns it on with its defaults.
- `extends: tiny` starts from a preset of the package, `extends: base.yaml` from another spec; the
  nearer value wins. A mapping with free keys (`collect.sources`, `fields`) is replaced whole, and
  so is a model when its `path` or `architecture` changes.
- Relative paths are relative to the current directory. `${key}` inserts another value,
  `${oc.env:HOME}` an environment variable.
- On the command line `ppo.kl.coef=0.05` overrides a value and `ppo.ptx=null` switches a section
  off.
- `python -m toolkit show spec.yaml` prints every value and where it came from.
"""


def make_docs() -> str:
    """Return the text of docs/SPEC.md."""
    presets = {name: read_layer(PRESETS / f"{name}.yaml", name).tree for name in preset_names()}
    lines = [_HEAD, "## Presets", ""]
    lines += [f"- `{name}`: {_first_comment(name)}" for name in presets]
    lines += ["", "## Top level", "", *_table(Spec, (), presets)]
    for path, info in all_paths(Spec):
        if info.section is not None:
            lines += ["", f"## {'.'.join(path)}", "", f"{info.text}.{_state(info)}", ""]
            lines += _table(info.section, path, presets, info.default)
    return "\n".join(lines) + "\n"


def _first_comment(name: str) -> str:
    first = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    return first.removeprefix("#").strip()


def _state(info: KeyInfo) -> str:
    if not info.optional:
        return ""
    return " May be null; null by default." if info.default is None else " May be null."


def _table(
    cls: type, path: tuple[str, ...], presets: dict[str, dict[str, Any]], default: Any = None
) -> Iterator[str]:
    names = list(presets)
    yield "| key | value | default | " + "".join(f"{name} | " for name in names) + "meaning |"
    yield "|---" * (4 + len(names)) + "|"
    for name, info in keys_of(cls).items():
        if info.section is not None:
            yield f"| `{name}` | section | | " + "| " * len(names) + f"{info.text} |"
            continue
        value = getattr(default, name) if default is not None else info.default
        cells = [f"`{name}`", type_text(info), _code(value)]
        cells += [_preset_cell(tree, (*path, name)) for tree in presets.values()]
        yield "| " + " | ".join([*cells, info.text.replace("|", "\\|")]) + " |"


def _preset_cell(tree: Any, path: tuple[str, ...]) -> str:
    for name in path:
        if not isinstance(tree, dict) or name not in tree:
            return ""
        tree = tree[name]
    return _code(tree)


def _code(value: Any) -> str:
    return "`" + inline(value).replace("|", "\\|") + "`"


if __name__ == "__main__":
    sys.stdout.write(make_docs())
