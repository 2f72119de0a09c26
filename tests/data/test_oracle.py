"""Plug-ins that judge answers: how they are found, and what they may return."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.data.oracle import load_function, load_oracle, load_scorer
from toolkit.spec.errors import SpecError, StageFailed
from toolkit.spec.schema import Data, Label, Spec, Task

SOURCE = """
def length(prompts, responses):
    return [len(r) for r in responses]

def ended(prompts, responses, finished):
    return [float(f) for f in finished]

def short(prompts, responses):
    return [1.0]

def broken(prompts, responses):
    return [float("nan")] * len(responses)

def words(prompts, responses):
    return ["good", "bad"]

def nothing(prompts, responses):
    print("scored")

def raises(prompts, responses):
    return [deeper(r) for r in responses]

def deeper(response):
    return {}[response]

def leaves(prompts, responses):
    raise SystemExit("bye")
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "plugin.py"
    path.write_text(SOURCE)
    return path


def test_a_function_of_two_or_three_arguments_scores(plugin: Path) -> None:
    answers = (["p", "p"], ["a", "bcd"], [True, False])
    assert load_scorer(f"{plugin}:length", "label.fn")(*answers) == [1.0, 3.0]
    assert load_scorer(f"{plugin}:ended", "label.fn")(*answers) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("short", "returned 1 scores for 2 responses"),
        ("broken", "returned nan for the response 'a'"),
        ("words", "returned 'good' as a score; expected a number for each response"),
        ("nothing", "returned NoneType; expected a score for each response"),
        ("raises", r"raised KeyError: 'a' \(.*plugin\.py:24\); mend it"),
        ("leaves", r"raised SystemExit: bye \(.*plugin\.py:27\); mend it"),
    ],
)
def test_a_wrong_result_stops_the_stage_and_names_the_function(
    plugin: Path, name: str, message: str
) -> None:
    with pytest.raises(StageFailed, match=message) as caught:
        load_scorer(f"{plugin}:{name}", "label.fn")(["p", "p"], ["a", "b"], [True, True])
    assert str(caught.value).startswith(f"label.fn {plugin}:{name} r")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("{p}", "must be path/to/file.py:function"),
        ("{p}:absent", "has no function 'absent'; it has length, ended, short, broken"),
        ("absent.py:f", r"there is no file absent\.py"),
        ("no.such.module:f", "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_a_sentence(
    plugin: Path, reference: str, message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        load_function(reference.format(p=plugin), "label.fn")


def test_a_module_function_is_found() -> None:
    assert load_function("math:floor")(2.5) == 2


def test_the_label_function_goes_before_the_task(plugin: Path) -> None:
    task = Data(task=Task(name="sort"))
    own = load_oracle(Spec(data=task, label=Label(fn=f"{plugin}:length")))
    tasks = load_oracle(Spec(data=task))
    assert own is not None
    assert tasks is not None
    assert own(["dbaec>"], ["abc"], [True]) == [3.0]
    assert tasks(["dbaec>"], ["abcde"], [True]) == [1.0]
    assert load_oracle(Spec()) is None
