"""What is said of a key without a value on the command line."""

from __future__ import annotations

import shlex

import pytest

from tests.spec.conftest import Write
from toolkit.spec.expected import no_value
from toolkit.spec.load import examine_spec
from toolkit.spec.schema import Spec
from toolkit.spec.vocabulary import all_paths, find_key
from toolkit.spec.walk import read_value
from toolkit.spec.yaml_tree import parse_scalar


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("out=", "no value; expected: text, such as out=runs/mine"),
        (
            "hardware.device= ",
            "no value; expected: `auto`, `cpu`, `cuda`, such as hardware.device=",
        ),
        ("ppo.ema=", "expected: number, at least 0 and at most 1, or null, such as ppo.ema=0.992"),
        ("collect.k=", "expected: number or [fewest, most], such as 'collect.k=[4, 9]'"),
        (
            "ppo.kl=",
            "no value; it is a section: give one of its keys a value, such as ppo.kl.coef=0.02",
        ),
        (
            "ppo.ptx=",
            "give one of its keys a value, such as ppo.ptx.coef=27.8; or write ppo.ptx=null to "
            "switch it off",
        ),
        ("collect.sources.base=", "no value; write collect.sources.base=VALUE"),
    ],
)
def test_a_key_without_a_value_is_told_what_it_takes(write: Write, override, message):
    (problem,) = examine_spec(write(), [override]).problems
    assert (problem.file, problem.path) == ("command line", override.strip(" ="))
    assert problem.message.startswith("no value; ")
    assert message in problem.message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ppo.kl.coeff=", 'unknown key; did you mean "coef"?'),
        ("sede=", 'unknown key; did you mean "seed"?'),
        ("lam=", "unknown key here; it exists as ppo.lam"),
    ],
)
def test_a_mistyped_key_without_a_value_is_not_asked_for_one(write: Write, override, message):
    (problem,) = examine_spec(write(), [override]).problems
    assert problem.message == message


def test_null_is_offered_exactly_where_a_key_may_be_null():
    for path, info in all_paths(Spec):
        assert ("null" in no_value(path)) == info.optional, path


def test_each_example_is_a_value_of_its_key():
    for path, _ in all_paths(Spec):
        example = no_value(path).partition("such as ")[2].partition("; or ")[0]
        (word,) = shlex.split(example)
        name, _, value = word.partition("=")
        key = find_key(Spec, tuple(name.split(".")))
        assert key is not None
        assert name.startswith(".".join(path))
        given = parse_scalar(value)
        if given is not None or not key.optional:
            read_value(key, given)
