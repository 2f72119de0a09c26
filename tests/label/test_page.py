"""The page in a real browser: what a labeler sees, types and clicks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.label.browser import Browser
from tests.label.served import EVIL, make_waiting, records, served
from toolkit.label.page import Page, render_page
from toolkit.label.transfer import export_tasks
from toolkit.pipeline.people import Waiting

READY = "document.getElementById('sheet')?.hidden === false"
SAID = "document.getElementById('message').textContent"
COUNT = "document.getElementById('count').textContent"
PROMPT = "document.getElementById('prompt').textContent"
CARDS = "[...document.querySelectorAll('.answer')]"
CHOSEN = f"{CARDS}.map(c => Number(c.querySelector('input:checked')?.value ?? 0))"
CURRENT = f"{CARDS}.findIndex(c => c.classList.contains('current'))"


@pytest.fixture
def browser(tmp_path: Path):
    found = Browser(tmp_path / "profile")
    yield found
    found.close()


def test_what_is_put_into_the_page_is_not_looked_at_again():
    page = Page(
        run="@SCRIPT@ <b>", stage="label.1", labeler="</script>@TOKEN@", ties=True, token="t"
    )
    text = render_page(page, "n")
    assert "@SCRIPT@ &lt;b&gt;" in text
    assert "\\u003c/script>@TOKEN@" in text
    assert text.count('"use strict"') == 1


@pytest.mark.slow
def test_a_prompt_is_ranked_with_the_keyboard_alone(browser, make):
    waiting = make(overlap=0.0)
    with served(waiting) as client:
        browser.open(client.server.url)
        browser.wait(READY)
        task = client.task()
        assert browser.look(PROMPT) == task["prompt"]
        shown = browser.look(f"{CARDS}.map(c => c.querySelector('.text').textContent)")
        assert shown == task["answers"]
        assert browser.look(CURRENT) == 0
        browser.press("2", "1")
        assert browser.look(CHOSEN) == [2, 1, 0, 0]
        assert browser.look(CURRENT) == 2
        browser.press("Enter")
        browser.wait(SAID, "Rank every answer first.")
        browser.press("2", "9", "4", "Enter")
        browser.wait(SAID, "Saved.")
        assert browser.look(COUNT) == "1 of 20 prompts are ranked, 1 by you"
        (row,) = records(waiting.file)
        assert (row["responses"], row["ranks"]) == (task["answers"], [2, 1, 2, 4])
        assert (row["labeler"], 0 < row["seconds"] < 60) == ("ann", True)
        browser.press("b")
        browser.wait(PROMPT, task["prompt"])
        assert browser.look(CHOSEN) == [2, 1, 2, 4]
        browser.wait(f"{SAID}.includes('takes the place of what you saved before')")
        browser.press("1", "Enter")
        browser.wait(SAID, "Saved.")
        assert [r["ranks"] for r in records(waiting.file)] == [[2, 1, 2, 4], [1, 1, 2, 4]]
        skipped = browser.look(PROMPT)
        browser.press("s")
        browser.wait(f"{PROMPT} !== {skipped!r}")
        assert len(records(waiting.file)) == 2
        browser.press("b")
        browser.wait(PROMPT, skipped)
        browser.wait(SAID, "An earlier prompt, which you have not ranked yet.")
    assert browser.complaints == []
    assert {url.split("/")[2] for url in browser.asked} == {client.server.url.split("/")[2]}


@pytest.mark.slow
def test_a_prompt_is_ranked_with_the_mouse_and_another_name(browser, make):
    waiting = make(ties=False, overlap=1.0)
    with served(waiting) as client:
        browser.looks(400, 800, dark=True)
        browser.open(client.server.url)
        browser.wait(READY)
        for card, rank in ((0, 3), (1, 3), (2, 1), (3, 4)):
            browser.click(f"{CARDS}[{card}].querySelectorAll('label')[{rank - 1}]")
        assert browser.look(CHOSEN) == [0, 3, 1, 4]
        browser.click("document.getElementById('save')")
        browser.wait(SAID, "Rank every answer first.")
        browser.click(f"{CARDS}[0].querySelectorAll('label')[1]")
        browser.click("document.getElementById('save')")
        browser.wait(SAID, "Saved.")
        browser.look("document.getElementById('labeler').value = ''")
        browser.click("document.getElementById('labeler')")
        browser.press(*"bo1", "Enter")
        browser.wait(COUNT, "1 of 20 prompts are ranked, 0 by you")
        wide = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert browser.look(wide)
        for _ in range(20):
            browser.press("4", "1", "2", "3", "Enter")
            browser.wait(SAID, "Saved.")
            browser.look(f"{SAID} = ''")
        browser.wait("document.getElementById('done').hidden", False)
        assert "20 of 20 prompts are ranked" in browser.look("document.body.innerText")
    ranks = [(row["labeler"], row["ranks"]) for row in records(waiting.file)]
    assert ranks == [("ann", [2, 3, 1, 4])] + [("bo1", [4, 1, 2, 3])] * 20


@pytest.mark.slow
def test_hostile_texts_are_shown_as_text(browser, tmp_path):
    samples = [{"prompt": EVIL, "responses": [EVIL + "<img src=x onerror=alert(1)>", " ", ""]}]
    with served(make_waiting(tmp_path, samples), labeler=EVIL) as client:
        browser.open(client.server.url)
        browser.wait(READY)
        assert browser.look(PROMPT) == EVIL
        assert browser.look("document.getElementById('labeler').value") == EVIL
        assert browser.look("document.title") == "run: rank the answers"
        assert browser.look("document.querySelectorAll('main script, main img').length") == 0
        assert browser.look("document.querySelectorAll('.blank').length") == 2
    assert browser.complaints == []


@pytest.mark.slow
def test_a_server_that_is_gone_or_was_restarted_is_said_and_the_ranks_stay(browser, waiting):
    with served(waiting) as client:
        browser.open(client.server.url)
        browser.wait(READY)
        browser.press("1", "2", "3")
        client.server.token = "another"
        browser.press("4", "Enter")
        browser.wait(SAID, "this page is of an earlier start of the server; reload it")
    browser.press("Enter")
    browser.wait(f"{SAID}.startsWith('The server does not answer.')")
    assert browser.look(CHOSEN) == [1, 2, 3, 4]
    assert not waiting.file.exists()


LONG = {"prompt": "why? " * 400, "responses": ["long " * 400 + str(n) for n in range(9)]}


@pytest.mark.slow
@pytest.mark.parametrize("width", [380, 1366])
def test_a_long_prompt_is_seen_from_its_beginning(browser, tmp_path, width):
    samples = [LONG, LONG | {"prompt": "how? " * 400}]
    with served(make_waiting(tmp_path, samples, overlap=0.0)) as client:
        browser.looks(width, 768)
        browser.open(client.server.url)
        browser.wait(READY)
        assert browser.look("scrollY") == 0
        first = browser.look(PROMPT)
        browser.look("document.getElementById('prompt').scrollTop = 90")
        browser.press(*"123456789", "Enter")
        browser.wait(SAID, "Saved.")
        assert browser.look(PROMPT) != first
        assert browser.look("[scrollY, document.getElementById('prompt').scrollTop]") == [0, 0]


@pytest.mark.slow
def test_a_page_that_is_loaded_again_keeps_the_labelers_name(browser, waiting):
    name = "document.getElementById('labeler')?.value"
    with served(waiting) as client:
        browser.open(client.server.url + "#labeler=bob+%26+cy")
        browser.wait(READY)
        assert browser.look(name) == "bob & cy"
        browser.look("document.getElementById('labeler').value = ''")
        browser.click("document.getElementById('labeler')")
        browser.press(*"di", "Enter")
        browser.wait("location.hash", "#labeler=di")
        browser.look("window.before = true")
        browser.call("Page.reload")
        browser.wait(f"window.before === undefined && {READY}")
        assert browser.look(name) == "di"
        browser.press("1", "2", "3", "4", "Enter")
        browser.wait(SAID, "Saved.")
        browser.open(client.server.url + "#labeler=eve")
        browser.wait(f"{name} === 'eve' && {READY}")
    assert [row["labeler"] for row in records(waiting.file)] == ["di"]


@pytest.mark.slow
def test_text_runs_the_way_its_script_does(browser, tmp_path):
    hebrew = "\u05e9\u05dc\u05d5\u05dd!"
    samples = [{"prompt": hebrew, "responses": [hebrew, "peace!"]}]
    with served(make_waiting(tmp_path, samples)) as client:
        browser.looks(1366, 768)
        browser.open(client.server.url)
        browser.wait(READY)
        place = "(t, at) => { const r = document.createRange(); r.setStart(t, at); "
        place += "r.setEnd(t, at + 1); return r.getBoundingClientRect().x; }"
        texts = "[...document.querySelectorAll('.text')].map(each => each.firstChild)"
        is_ltr = f"({place})(t, 0) < ({place})(t, t.length - 1)"
        ways = browser.look(f"{texts}.map(t => [t.data, {is_ltr}])")
    assert dict(ways) == {hebrew: False, "peace!": True}


@pytest.mark.slow
def test_a_labeler_is_told_that_the_run_has_gone_on(browser, waiting, monkeypatch):
    hidden = "document.getElementById('taken').hidden"
    with served(waiting) as client:
        browser.open(client.server.url)
        browser.wait(READY)
        assert browser.look(hidden)
        monkeypatch.setattr(Waiting, "is_taken", lambda self: True)
        browser.press("s")
        browser.wait(SAID, "Skipped: it comes again later.")
        assert not browser.look(hidden)


@pytest.mark.slow
def test_a_labeler_is_told_that_the_rest_is_out_in_files(browser, make, tmp_path):
    waiting = make(overlap=0.0)
    export_tasks(waiting, EVIL, tmp_path / "tasks.jsonl")
    with served(waiting) as client:
        browser.open(client.server.url)
        browser.wait("document.getElementById('done')?.hidden", False)
        said = browser.look("document.getElementById('done-text').textContent")
    out = f"There are prompts that are out in exported files: 20 for {EVIL}; "
    assert said.startswith(f"0 of 20 prompts are ranked. {out}")
    assert browser.complaints == []


@pytest.mark.slow
def test_a_long_page_shows_its_messages_and_the_whole_answer_that_is_next(browser, tmp_path):
    seen = (
        "(e => {const b = e.getBoundingClientRect(); return b.top >= 0 && b.bottom <= innerHeight})"
    )
    with served(make_waiting(tmp_path, [LONG])) as client:
        browser.looks(1366, 768)
        browser.open(client.server.url)
        browser.wait(READY)
        browser.look("window.scrollTo(0, 9999)")
        browser.press("Enter")
        browser.wait(SAID, "Rank every answer first.")
        edges = [f"{CARDS}[0].getBoundingClientRect().top"]
        edges.append("document.getElementById('message').getBoundingClientRect().bottom")
        browser.wait(f"{edges[0]} >= {edges[1]}")
        for card in range(8):
            browser.press(str(card + 1))
            assert browser.look(f"{seen}({CARDS}[{card + 1}])")
        browser.press("9")
        client.server.token = "another"
        browser.press("Enter")
        browser.wait(f"{SAID} !== ''")
        assert browser.look("scrollY") > 1000
        assert browser.look(f"{seen}(document.getElementById('message'))")
