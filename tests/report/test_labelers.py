"""The report's section on those who rank."""

from __future__ import annotations

from toolkit.report.labelers import agreement_rows, fold_rows, rating_rows, render_labelers
from toolkit.report.tables import accuracies

LABELS = {
    "agreement": {
        "all": {"agreement": 0.726, "error": 0.0149, "pairs": 2400, "prompts": 400},
        "held_out": {"agreement": 0.773, "pairs": 6, "prompts": 1},
    },
    "metadata": {
        "ppo": {"rated": 2, "quality": 6.5, "flags": {"harmful": 0.0}},
        "sft": {"rated": 3, "quality": 4.0, "flags": {"harmful": 0.25, "opinion": 1.0}},
    },
}
FOLDS = {
    "folds": [{"training_labelers": {"pairs": 40}, "held_out_labelers": {"pairs": 10}}] * 2,
    "training_labelers": {"mean": 0.724, "error": 0.004},
    "held_out_labelers": {"mean": 0.696, "error": 0.009},
    "difference": {"mean": -0.028, "error": 0.01},
}


def test_rows_show_what_the_files_hold():
    assert agreement_rows(LABELS) == [
        ("all labelers", "72.6 \u00b1 1.5 %", "2,400"),
        ("held-out labelers", "77.3 %", "6"),
    ]
    assert fold_rows(FOLDS) == [
        ("the labelers it was trained on", "72.4 \u00b1 0.4 %", "80"),
        ("labelers it never saw", "69.6 \u00b1 0.9 %", "20"),
        ("difference", "-2.8 \u00b1 1.0 %", ""),
    ]
    header, rows = rating_rows(LABELS)
    assert header == ("answers of", "rated", "quality, 1 to 7", "harmful", "opinion")
    assert rows == [("ppo", "2", "6.50", "0.0 %", "-"), ("sft", "3", "4.00", "25.0 %", "100.0 %")]


def test_the_section_is_there_only_with_labelers():
    assert render_labelers({}, {}) == ""
    assert render_labelers({"labelers": {}, "agreement": {}, "metadata": {}}, {}) == ""
    page = render_labelers(LABELS, FOLDS)
    assert "72.6" in page
    assert "69.6" in page
    assert "harmful" in page


def test_a_labeler_is_called_so_once():
    measured = {"accuracy": 0.75, "pairs": 8}
    rows = accuracies({"by_labeler": {"labeler 1": measured, "ann": measured}})
    assert [row[0] for row in rows] == ["held-out, labeler 1", "held-out, labeler ann"]
