"""What is out in a file for somebody is offered to nobody else, until it is taken back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.label.served import at_the_same_time, records
from toolkit.label import transfer
from toolkit.label.desk import Desk
from toolkit.label.exported import Exports
from toolkit.label.transfer import export_tasks, release
from toolkit.pipeline.files import written_beside
from toolkit.spec.errors import ToolkitError


def export(waiting, labeler, most=None, name=None):
    """Return the prompts that a labeler got in a file."""
    file = waiting.run / f"{name or labeler}.jsonl"
    export_tasks(waiting, labeler, file, most)
    return {task["prompt"] for task in records(file)}


def page(waiting, labeler):
    return {question.prompt for question in Desk(waiting).open_for(labeler)}


def shared(waiting):
    desk = Desk(waiting)
    return {question.prompt for question in desk.questions if desk.is_shared(question)}


def test_two_files_and_the_page_share_only_what_everybody_ranks(make):
    waiting = make(overlap=0.3)
    everybody = shared(waiting)
    assert 2 <= len(everybody) <= 10
    ann, bob = (export(waiting, labeler, 7) for labeler in ("ann", "bob"))
    cy = page(waiting, "cy")
    assert everybody < cy
    for one, other in ((ann, bob), (ann, cy), (bob, cy)):
        assert one & other <= everybody
    assert len(ann | bob | cy) == 20


def test_where_everybody_ranks_everything_each_labeler_gets_it_once(make):
    waiting = make(overlap=1.0)
    assert len(export(waiting, "ann")) == 20
    assert page(waiting, "ann") == set()
    assert len(export(waiting, "bob")) == 20
    with pytest.raises(ToolkitError, match="nothing is left to export for ann: prompts that are"):
        export(waiting, "ann", name="again")


def test_files_of_one_labeler_have_different_prompts(make):
    waiting = make(overlap=0.3)
    first, second = (export(waiting, "ann", 8, name) for name in ("a", "b"))
    assert (len(first), len(second), first & second) == (8, 8, set())


def test_where_nothing_is_left_no_file_is_written_and_it_is_said_who_has_the_rest(make):
    waiting = make(overlap=0.0)
    export(waiting, "ann", 15)
    export(waiting, "bob")
    with pytest.raises(ToolkitError) as caught:
        export(waiting, "cy")
    assert str(caught.value) == (
        "nothing is left to export for cy: prompts that are out in exported files: 15 for ann, 5 "
        f"for bob; `python -m toolkit label {waiting.run} --import FILE` brings their rankings, "
        f"`python -m toolkit label {waiting.run} --release NAME` offers them again, as where a "
        "file is lost"
    )
    assert not (waiting.run / "cy.jsonl").exists()


def test_where_all_is_ranked_the_run_goes_on(make):
    waiting = make(overlap=0.0)
    desk = Desk(waiting)
    for question in desk.questions:
        desk.save("ann", question.name, [1, 2, 3, 4], 1.0)
    with pytest.raises(ToolkitError, match="every prompt is ranked; type the `run` command again"):
        export(waiting, "bob")


def test_what_is_taken_back_goes_to_others_and_what_others_have_stays_with_them(make):
    waiting = make(overlap=0.0)
    ann, bob = export(waiting, "ann", 9), export(waiting, "bob", 6)
    assert release(waiting, "ann") == 9
    assert page(waiting, "cy") & (ann | bob) == ann
    with pytest.raises(ToolkitError) as caught:
        release(waiting, "ann")
    assert str(caught.value) == (
        "--release ann: nothing is out for that name; prompts are out for bob"
    )
    assert export(waiting, "ann", name="again") >= ann


def test_a_page_that_is_open_leaves_out_what_is_exported_and_says_so_at_its_end(make):
    waiting = make(overlap=0.0)
    desk = Desk(waiting)
    assert desk.task("bob")["id"] is not None
    export(waiting, "ann")
    end = desk.task("bob")
    assert end["id"] is None
    assert end["exported"].startswith("prompts that are out in exported files: 20 for ann; ")
    release(waiting, "ann")
    assert desk.task("bob")["id"] is not None


def test_what_came_back_is_not_out_any_more(make):
    waiting = make(overlap=0.0)
    export(waiting, "ann")
    desk = Desk(waiting)
    for question in desk.questions[:19]:
        desk.save("somebody else", question.name, [1, 2, 3, 4], 1.0)
    assert ": 1 for ann; " in desk.exported_text()
    desk.save("ann", desk.questions[19].name, [1, 2, 3, 4], 1.0)
    assert desk.exported_text() == ""


def written_slowly(monkeypatch):
    def slowly(file, text):
        time.sleep(0.1)
        return written_beside(file, text)

    monkeypatch.setattr(transfer, "written_beside", slowly)


def test_exports_at_the_same_time_share_nothing(make, monkeypatch):
    written_slowly(monkeypatch)
    waiting = make(overlap=0.0)
    parts = at_the_same_time(lambda number: export(waiting, f"labeler {number}", 5))
    assert sorted(map(len, parts)) == [5, 5, 5, 5]
    assert len(set.union(*parts)) == 20


def test_of_exports_to_one_file_at_the_same_time_the_first_stays(make, monkeypatch):
    written_slowly(monkeypatch)
    waiting = make(overlap=0.0)

    def try_export(number):
        try:
            return export(waiting, f"labeler {number}", 4, "same")
        except ToolkitError:
            return set()

    assert sorted(map(len, at_the_same_time(try_export))) == [0, 0, 0, 4]
    assert sum(Desk(waiting).exported().values()) == 4


def test_an_export_that_is_stopped_leaves_no_file_that_others_are_given_too(make, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    waiting = make(overlap=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            export(waiting, "ann", 12)
    assert list(waiting.run.glob("*ann*")) == []
    assert Desk(waiting).exported() == {"ann": 12}
    assert len(export(waiting, "bob")) == 8


def test_an_export_that_cannot_be_noted_leaves_no_file(waiting, monkeypatch):
    def full(self, labeler, questions):
        raise OSError("no room")

    monkeypatch.setattr(Exports, "add", full)
    with pytest.raises(OSError, match="no room"):
        export(waiting, "ann")
    assert not (waiting.run / "ann.jsonl").exists()


def test_exports_of_answers_that_were_collected_earlier_and_torn_lines_keep_nothing(make):
    waiting = make(overlap=0.0)
    path = Exports(waiting.file).path
    path.parent.mkdir()
    rows = [
        '{"labeler": "ann", "prompts": ["0123456789abcdef"]}',
        "5",
        '{"prompts": []}',
        '{"labeler": "bob", "pro',
    ]
    path.write_text("\n".join(rows))
    assert Desk(waiting).exported_text() == ""
    assert len(export(waiting, "cy")) == 20
    assert page(waiting, "ann") == set()
