"""The page stands alone, is well formed, and lets no text through unescaped."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from toolkit.report import page as page_parts
from toolkit.report import plots
from toolkit.report.panels import PPO_MACHINE, PPO_MAIN, TRAINING, Line, Panel
from toolkit.report.write import write_report

VOID = {"meta", "img", "br", "hr", "input", "link"}


class Reader(HTMLParser):
    """Collects tags, attributes, ids and text; fails on tags that do not close in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read_page(path: Path) -> tuple[str, Reader]:
    """Return the page's text and what a parser sees."""
    page = path.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return page, reader


@pytest.fixture(scope="module")
def page(shown: Any) -> tuple[str, Reader]:
    write_report(shown.path)
    return read_page(shown.path / "report.html")


def test_the_page_refers_to_nothing_outside_itself(page: tuple[str, Reader]) -> None:
    text, reader = page
    loading = {"src", "srcset", "data", "action", "poster", "background"}
    for tag, attributes in reader.tags:
        assert tag not in {"script", "link", "iframe", "img", "object", "embed", "base", "image"}
        assert not loading & set(attributes), (tag, attributes)
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name.endswith("href"):
                assert (value or "").startswith("#")
            for target in re.findall(r"url\(([^)]*)\)", value or ""):
                assert target.startswith("#")
    assert "://" not in text
    assert "@import" not in text


def test_ids_are_unique_and_every_reference_is_there(page: tuple[str, Reader]) -> None:
    text, reader = page
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    references = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    assert references
    assert references <= set(ids)


def test_texts_of_models_and_users_are_escaped(folder: Any, evaluation: Any) -> None:
    evil = "<script>alert(1)</script>\"'&"
    evaluation["warnings"] = [evil]
    evaluation["judges"][evil] = {"win_rate": 0.5}
    evaluation["by_kind"] = {evil: {"prompts": 3, "sft": {"oracle": 0.5}}}
    folder.finish_all(evaluation)
    folder.change_done("sft", summary={evil: evil}, warnings=[evil])
    write_report(folder.path)
    text, reader = read_page(folder.path / "report.html")
    assert "<script" not in text
    assert "<img" not in text
    joined = "".join(reader.text)
    assert joined.count(evil) >= 5
    assert "</script><img src=x>" in joined


def test_deviations_from_the_paper_are_listed_with_their_reasons(page: tuple[str, Reader]) -> None:
    _, _, after = page[0].partition("Deviations from the paper")
    recipe, _, environment = after.partition("<details>")
    row = "<td>ppo.kl.coef</td><td>0.02</td><td>0.07</td><td>&lt;i&gt;short&lt;/i&gt; answers</td>"
    assert row in recipe
    assert "models.base.config" not in recipe
    assert "models.base.config" in environment


def test_a_run_that_never_said_its_deviations_has_no_such_section(finished: Any) -> None:
    (finished.path / "deviations.json").unlink()
    report = write_report(finished.path)
    assert report["deviations"] == {}
    assert "Deviations from" not in (finished.path / "report.html").read_text(encoding="utf-8")


def test_the_first_prompt_of_each_kind_is_shown_and_the_rest_folded() -> None:
    samples = [
        {"prompt": f"p{i:02}", "sft": "a", "ppo": "b", "kind": "odd" if i % 2 else "even"}
        for i in range(10)
    ]
    shown, folded = page_parts._samples(samples, "PPO").split("<details>")
    assert [p for p in range(10) if f"p{p:02}" in shown] == [0, 1]
    assert "8 more prompts" in folded
    assert [p for p in range(10) if f"p{p:02}" in folded] == list(range(2, 10))


def test_every_curve_of_the_run_is_drawn(page: tuple[str, Reader]) -> None:
    joined = "".join(page[1].text)
    drawn = [p.title for p in (*TRAINING, *PPO_MAIN, *PPO_MACHINE)]
    assert [title for title in drawn if title not in joined] == []
    assert "KL-reward frontier" in joined
    assert "Scores of held-out answers" in joined
    assert sum(tag == "svg" for tag, _ in page[1].tags) == len(drawn) + 3


def test_the_same_run_gives_the_same_page(finished: Any, tmp_path: Path) -> None:
    write_report(finished.path, tmp_path / "a.html")
    write_report(finished.path, tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert not (finished.path / "report.html").exists()


def test_a_long_curve_is_thinned_to_means() -> None:
    metrics = [{"step": i + 1, "x": float(i % 2)} for i in range(1000)]
    points = plots.curve(metrics, "x")
    assert len(points) <= plots.MOST_POINTS
    assert sum(y for _, y in points) / len(points) == pytest.approx(0.5, abs=0.01)
    assert points[-1][0] == 1000


def test_a_panel_without_values_is_left_out() -> None:
    panel = Panel("ppo", "title", (Line("missing", "label"),))
    assert plots.draw_panel(panel, [{"step": 1, "other": 1.0}]) == ""
    assert plots.draw_panel(panel, [{"step": 1, "missing": float("nan")}]) == ""


def test_bars_of_both_judges_need_an_oracle(evaluation: Any) -> None:
    names = [("sft", "SFT"), ("ppo_ema", "PPO")]
    assert "oracle score" in plots.draw_judges(evaluation["models"], names)
    del evaluation["models"]["sft"]["oracle"]
    assert plots.draw_judges(evaluation["models"], names) == ""


@pytest.mark.slow
def test_a_real_browser_shows_the_page_and_asks_for_nothing(finished: Any, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("chromium is not installed, so the page is not opened in a real browser")
    write_report(finished.path)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    flags += [
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'user'}",
    ]
    flags += ["--dump-dom", f"file://{finished.path / 'report.html'}"]
    shown = subprocess.run(
        [browser, *flags], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    assert "PPO beats SFT on 78 %" in shown
    assert shown.count("<svg") == len((*TRAINING, *PPO_MAIN, *PPO_MACHINE)) + 3
    assert "<script" not in shown
