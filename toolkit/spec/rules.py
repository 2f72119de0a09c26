"""The form of a rule about several keys, and the runner of all rules.

A rule is one sentence with its fix. It names the keys it reads, and is skipped when one of them is
already wrong. It yields (keys to blame, message); the first of those keys that somebody wrote is
blamed, so that a default is never the culprit while a line of the user's is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from toolkit.spec.schema import Spec
from toolkit.spec.walk import Walker
from toolkit.spec.yaml_tree import COMMAND_LINE, Mark, Path_

Finding = tuple[tuple[str, ...], str]
Rule = Callable[[Spec], Iterator[Finding]]


@dataclass(frozen=True)
class Entry:
    """A rule and the keys it reads."""

    reads: tuple[Path_, ...]
    rule: Rule


class RuleTable(list[Entry]):
    """The rules of one module."""

    def rule(self, *reads: str) -> Callable[[Rule], Rule]:
        """Register a rule that reads these dotted keys."""

        def register(function: Rule) -> Rule:
            self.append(Entry(tuple(tuple(path.split(".")) for path in reads), function))
            return function

        return register


def check_rules(rules: Iterable[Entry], spec: Spec, walker: Walker) -> None:
    """Run every rule whose keys are sound, and report what it finds."""
    already_broken = set(walker.broken)
    for entry in rules:
        if any(_overlap(read, broken) for read in entry.reads for broken in already_broken):
            continue
        for blamed, message in entry.rule(spec):
            walker.add(_culprit(blamed, walker), message)


def _overlap(one: Path_, other: Path_) -> bool:
    shared = min(len(one), len(other))
    return one[:shared] == other[:shared]


def _culprit(blamed: tuple[str, ...], walker: Walker) -> Path_:
    """Return the key that the nearest layer wrote: the command line, the file, then a preset."""
    paths = [tuple(path.split(".")) for path in blamed]
    return max(paths, key=lambda path: _nearness(walker.marks.get(path), walker.file))


def _nearness(mark: Mark | None, file: str) -> int:
    if mark is None:
        return 0
    return {COMMAND_LINE: 3, file: 2}.get(mark.file, 1)
