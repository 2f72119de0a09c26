"""Who is shown what, in which order, and which ranks are taken."""

from __future__ import annotations

import time

import pytest

from tests.label.served import at_the_same_time, records
from toolkit.label.desk import BEFORE_SOMEBODY, Desk, Refused, read_ranks
from toolkit.pipeline.people import Waiting


def names(desk, labeler):
    return [question.name for question in desk.open_for(labeler)]


def rank(desk, labeler, question, ranks=(1, 2, 3, 4)):
    desk.save(labeler, question.name, list(ranks), 1.0)


def test_an_order_depends_on_seed_labeler_and_prompt_alone(waiting):
    desk, again = Desk(waiting), Desk(waiting)
    question = desk.questions[0]
    assert names(desk, "ann") == names(again, "ann")
    assert desk.shown(question, "ann") == again.shown(question, "ann")
    orders = {tuple(desk.shown(q, who)) for q in desk.questions for who in ("ann", "bob", "cy")}
    assert len(orders) > 15
    assert names(desk, "ann") != names(desk, "bob")


def test_an_answer_is_shown_once_and_without_its_source(waiting):
    desk = Desk(waiting)
    task = desk.task("ann")
    assert sorted(task["answers"]) == ["", "one", "three", "two"]
    assert "source" not in task
    assert "sft" not in str(task)


def test_a_prompt_of_one_goes_to_nobody_else_and_a_shared_one_to_all(make):
    desk = Desk(make(overlap=0.3))
    shared = [question for question in desk.questions if desk.is_shared(question)]
    assert 2 <= len(shared) <= 10
    for question in desk.questions:
        rank(desk, "ann", question)
    assert desk.open_for("ann") == []
    assert set(desk.open_for("bob")) == set(shared)


@pytest.mark.parametrize(("overlap", "count"), [(0.0, 0), (1.0, 20)])
def test_overlap_reaches_from_none_to_all(make, overlap, count):
    desk = Desk(make(overlap=overlap))
    assert sum(map(desk.is_shared, desk.questions)) == count


def test_skipping_goes_round_and_back_finds_what_was_ranked(make):
    desk = Desk(make(overlap=0.0))
    first, second, third, *_ = names(desk, "ann")
    assert desk.task("ann")["id"] == first
    assert desk.task("ann")["previous"] is None
    assert desk.task("ann", after=first)["id"] == second
    desk.save("ann", second, [1, 1, 2, 3], 1.0)
    shown = desk.task("ann", after=second)
    assert (shown["id"], shown["previous"]) == (third, second)
    before = desk.task("ann", second)
    assert (before["ranks"], before["previous"]) == ([1, 1, 2, 3], first)
    for question in desk.open_for("ann"):
        if question.name != first:
            rank(desk, "ann", question)
    last = desk.task("ann", after=third)
    assert last["id"] == first
    desk.save("ann", first, [1, 2, 3, 4], 1.0)
    end = desk.task("ann", after=first)
    assert (end["id"], end["ranked"], end["total"], end["mine"]) == (None, 20, 20, 20)
    assert end["previous"] is not None


def test_what_one_has_on_the_page_comes_last_for_the_others(make):
    desk = Desk(make(overlap=0.0))
    first, second, *_ = names(desk, "bob")
    desk.task("ann", first)
    assert desk.task("bob")["id"] == second
    assert desk.task("cy", after=names(desk, "cy")[-1])["id"] not in (first, second)
    assert desk.task("ann", first)["id"] == first
    desk.task("ann", after=first)  # ann goes on without ranking it
    assert desk.task("bob")["id"] == first


def test_the_last_prompts_are_shown_to_whoever_asks(make):
    """Who had them on the page may have gone home."""
    desk = Desk(make(overlap=0.0))
    last, *others = desk.questions
    for question in others:
        rank(desk, "ann", question)
    assert desk.task("ann")["id"] == desk.task("bob")["id"] == last.name


def test_a_prompt_is_kept_from_others_for_a_while_only(make, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("toolkit.label.desk.time.monotonic", lambda: now[0])
    desk = Desk(make(overlap=0.0))
    first, second, *_ = names(desk, "bob")
    desk.task("ann", first)
    now[0] += BEFORE_SOMEBODY - 1
    assert desk.task("bob")["id"] == second
    now[0] += 2
    assert desk.task("bob")["id"] == first


def test_a_shared_prompt_is_on_the_page_of_all_at_once(make):
    desk = Desk(make(overlap=1.0))
    first = names(desk, "bob")[0]
    desk.task("ann", first)
    assert desk.task("bob")["id"] == first


def test_many_who_ask_at_once_get_different_prompts(make, monkeypatch):
    desk = Desk(make(overlap=0.0))
    noted = desk._note

    def slowly(*noting):
        time.sleep(0.01)
        noted(*noting)

    monkeypatch.setattr(desk, "_note", slowly)
    shown = at_the_same_time(lambda who: desk.task(f"labeler {who}")["id"], 16)
    assert len(set(shown)) == 16


def test_one_that_is_skipped_comes_last(make):
    desk = Desk(make(overlap=0.0))
    first, second, *others = desk.questions
    for question in others:
        rank(desk, "ann", question)
    desk.task("bob", first.name)
    assert desk.task("ann")["id"] == second.name
    assert desk.task("ann", after=second.name)["id"] == first.name


def test_who_is_done_has_nothing_on_the_page(make):
    desk = Desk(make(overlap=0.0))
    last, *others = desk.questions
    for question in others:
        rank(desk, "ann", question)
    desk.task("ann")
    rank(desk, "ann", last)
    assert desk.task("ann")["id"] is None
    assert desk._on_page == {}


def test_a_correction_is_a_later_record_and_the_same_again_is_none(waiting):
    desk = Desk(waiting)
    question = desk.questions[0]
    for ranks in ([1, 2, 3, 4], [1, 2, 3, 4], [4, 3, 2, 1]):
        rank(desk, "ann", question, ranks)
    assert [row["ranks"] for row in records(waiting.file)] == [[1, 2, 3, 4], [4, 3, 2, 1]]
    assert desk.task("ann", question.name)["ranks"] == [4, 3, 2, 1]
    assert desk.progress() == (1, 20)


def test_a_record_has_what_was_shown_who_ranked_and_how_long_it_took(waiting):
    desk = Desk(waiting)
    question = desk.questions[5]
    desk.save("Ann B.", question.name, [2, 2, 1, 3], 12.345)
    assert records(waiting.file) == [
        {
            "prompt": question.prompt,
            "responses": desk.shown(question, "Ann B."),
            "ranks": [2, 2, 1, 3],
            "labeler": "Ann B.",
            "seconds": 12.3,
        }
    ]


@pytest.mark.parametrize(
    ("ranks", "why"),
    [
        ([1, 2, 3], "a rank for each of 4 answers, got 3"),
        ([0, 1, 2, 3], "ranks from 1 (best) to 4, got 0"),
        ([1, 2, 3, 5], "ranks from 1 (best) to 4, got 5"),
    ],
)
def test_ranks_that_fit_no_answers_are_refused(waiting, ranks, why):
    desk = Desk(waiting)
    with pytest.raises(Refused) as caught:
        rank(desk, "ann", desk.questions[0], ranks)
    assert why in str(caught.value)
    assert not waiting.file.exists()


def test_without_ties_each_answer_has_its_own_rank(make):
    desk = Desk(make(ties=False))
    with pytest.raises(Refused, match="ties is false"):
        rank(desk, "ann", desk.questions[0], [1, 1, 2, 3])
    rank(desk, "ann", desk.questions[0], [1, 4, 2, 3])


@pytest.mark.parametrize("name", ["", " ", " ann", "a\nb", "a\x00", "x" * 101, "\ud800"])
def test_a_labeler_has_a_printable_name(waiting, name):
    desk = Desk(waiting)
    with pytest.raises(Refused, match="name"):
        desk.task(name)
    with pytest.raises(Refused, match="name"):
        rank(desk, name, desk.questions[0])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (None, "expected a record"),
        ({"labeler": 3}, "must be texts"),
        ({"id": None}, "must be texts"),
        ({"ranks": "1234"}, "list of whole numbers"),
        ({"ranks": [1, True]}, "list of whole numbers"),
        ({"ranks": [1.0, 2]}, "list of whole numbers"),
        ({"seconds": -1}, "at least 0"),
        ({"seconds": float("nan")}, "at least 0"),
        ({"seconds": "3"}, "at least 0"),
    ],
)
def test_what_a_page_sends_has_its_types(change, why):
    body = {"labeler": "ann", "id": "x", "ranks": [1, 2], "seconds": 3}
    assert read_ranks(body) == ("ann", "x", [1, 2], 3.0)
    with pytest.raises(Refused, match=why):
        read_ranks(None if change is None else body | change)


def test_ranks_of_answers_that_were_collected_anew_are_refused(make, monkeypatch):
    desk = Desk(make())
    task = desk.task("ann")
    assert task["taken"] is False
    monkeypatch.setattr(Waiting, "is_outdated", lambda self: True)
    for late in (lambda: desk.task("ann"), lambda: desk.save("ann", task["id"], [1, 2, 3, 4], 1.0)):
        with pytest.raises(Refused, match="has collected other answers since; start"):
            late()
    assert not desk.waiting.file.exists()
