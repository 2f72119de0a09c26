"""Tasks go out, rankings come back, and what is wrong is said all at once."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.label.served import at_the_same_time, records
from toolkit.data.collected import read_own
from toolkit.label import transfer
from toolkit.label.book import append_rows
from toolkit.label.desk import Desk
from toolkit.label.transfer import export_tasks, import_rankings, release
from toolkit.spec.errors import DataError, ToolkitError


def exported(waiting, folder, labeler="ann", most=None):
    (folder / "tasks.jsonl").unlink(missing_ok=True)
    export_tasks(waiting, labeler, folder / "tasks.jsonl", most)
    return records(folder / "tasks.jsonl")


def ranked(folder, tasks, **more):
    rows = [task | {"ranks": list(range(1, 1 + len(task["responses"])))} | more for task in tasks]
    file = folder / "ranked.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_an_export_is_what_the_page_shows(waiting, tmp_path):
    desk = Desk(waiting)
    shown = [(q.prompt, desk.shown(q, "ann")) for q in desk.open_for("ann")]
    tasks = exported(waiting, tmp_path)
    assert [(t["prompt"], t["responses"]) for t in tasks] == shown
    assert {name for task in tasks for name in task} == {"prompt", "responses"}


def test_what_went_out_comes_back_and_twice_is_once(waiting, tmp_path):
    tasks = exported(waiting, tmp_path)
    file = ranked(tmp_path, tasks[:15], labeler="ann", ratings=[7, 5, 3, 1], seconds=4)
    assert import_rankings(waiting, file)[:2] == (15, 0)
    assert import_rankings(waiting, file)[:2] == (0, 15)
    assert records(waiting.file) == records(tmp_path / "ranked.jsonl")
    release(waiting, "ann")
    assert len(exported(waiting, tmp_path)) == 5
    assert import_rankings(waiting, ranked(tmp_path, tasks, labeler="ann"))[:2] == (20, 0)


def test_an_old_file_does_not_undo_a_correction(waiting, tmp_path):
    tasks = exported(waiting, tmp_path)
    file = ranked(tmp_path, tasks[:1], labeler="ann")
    import_rankings(waiting, file)
    desk = Desk(waiting)
    question = next(q for q in desk.questions if q.prompt == tasks[0]["prompt"])
    desk.save("ann", question.name, [4, 3, 2, 1], 1.0)
    again = import_rankings(waiting, file)
    assert again.added == 0
    assert again.warnings == [
        f"{file}: rankings that were corrected since stay corrected (1); correct them again on the "
        "page"
    ]
    assert Desk(waiting).task("ann", question.name)["ranks"] == [4, 3, 2, 1]


def test_an_export_overwrites_no_file_that_people_may_have_worked_on(waiting, tmp_path):
    tasks = exported(waiting, tmp_path)
    import_rankings(waiting, ranked(tmp_path, tasks))
    before = waiting.file.read_text()
    for file in (waiting.file, tmp_path / "tasks.jsonl"):
        with pytest.raises(ToolkitError, match="is there already and is not overwritten; choose"):
            export_tasks(waiting, "bob", file)
    assert waiting.file.read_text() == before


def test_a_second_ranking_in_one_file_replaces_the_first_and_is_no_contradiction(waiting, tmp_path):
    (task, *_) = exported(waiting, tmp_path)
    rows = [task | {"ranks": ranks, "labeler": "ann"} for ranks in ([1, 2, 3, 4], [4, 3, 2, 1])]
    (tmp_path / "two.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = import_rankings(waiting, str(tmp_path / "two.jsonl"))
    assert found.added == 2
    (warning,) = found.warnings
    assert warning.endswith("by the same labeler of the same answers replaces an earlier one (1)")


def test_the_last_ranking_in_a_file_counts_also_where_it_is_as_the_first(waiting, tmp_path):
    (task, *_) = exported(waiting, tmp_path)
    first, other = [1, 2, 3, 4], [4, 3, 2, 1]
    rows = [task | {"ranks": ranks, "labeler": "ann"} for ranks in (first, other, first)]
    (tmp_path / "three.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_rankings(waiting, str(tmp_path / "three.jsonl"))
    (ranking,) = read_own(waiting.file, waiting.samples).read.records
    assert list(ranking.ranks) == first


def test_all_problems_are_said_at_once_and_nothing_is_added(waiting, tmp_path):
    tasks = exported(waiting, tmp_path)
    tasks[0] = tasks[0] | {"prompt": "never asked"}
    tasks[1] = tasks[1] | {"responses": ["one", "never given"]}
    file = ranked(tmp_path, tasks)
    with open(file, "a") as more:
        more.write('{"prompt": "prompt 1", "responses": ["one", "two"]}\n')
    with pytest.raises(DataError) as caught:
        import_rankings(waiting, file)
    assert [(p.line, p.path) for p in caught.value.problems] == [
        (21, "ranks"),
        (1, "prompt"),
        (2, "responses.1"),
    ]
    assert not waiting.file.exists()


def test_one_ranking_of_what_was_never_collected_is_enough_to_add_nothing(waiting, tmp_path):
    tasks = exported(waiting, tmp_path)
    file = ranked(tmp_path, [*tasks[:-1], tasks[-1] | {"prompt": "never asked"}])
    with pytest.raises(DataError, match=r":20  prompt  is none of the collected ones"):
        import_rankings(waiting, file)
    assert not waiting.file.exists()


def test_an_export_makes_the_folder_it_is_to_lie_in(waiting, tmp_path):
    assert export_tasks(waiting, "ann", tmp_path / "new" / "tasks.jsonl").prompts == 20


def test_pairs_of_one_labeler_about_one_prompt_all_count(waiting, tmp_path):
    file = tmp_path / "pairs.jsonl"
    rows = [("one", "two"), ("two", "three"), ("one", "")]
    file.write_text(
        "".join(
            json.dumps({"prompt": "prompt 1", "responses": r, "ranks": [1, 2], "labeler": "a"})
            + "\n"
            for r in rows
        )
    )
    assert import_rankings(waiting, str(file)).added == 3
    assert Desk(waiting).progress() == (1, 20)


def test_contradictions_are_told(waiting, tmp_path):
    (task, *_) = exported(waiting, tmp_path)
    pair = task | {"responses": task["responses"][1::-1]}
    file = ranked(tmp_path, [task, pair], labeler="a")
    (warning,) = import_rankings(waiting, file).warnings
    assert "ranked both ways by the same labeler" in warning


def test_rankings_without_a_name_that_are_imported_twice_at_once_are_added_once(
    waiting, tmp_path, monkeypatch
):
    def slowly(path, rows):
        time.sleep(0.1)
        append_rows(path, rows)

    file = ranked(tmp_path, exported(waiting, tmp_path))
    monkeypatch.setattr(transfer, "append_rows", slowly)
    done = at_the_same_time(lambda number: import_rankings(waiting, file))
    assert sorted(each.added for each in done) == [0, 0, 0, 20]
    assert records(waiting.file) == records(Path(file))
