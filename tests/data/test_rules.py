"""Data rules: at most n prompts of a user, prompts that begin alike, personal data; all counted."""

from __future__ import annotations

import dataclasses
import random
import re

import pytest

from toolkit.data.personal import find_personal, iban, luhn
from toolkit.data.prepare import load_run_text, prepare
from toolkit.data.records import Record
from toolkit.data.rules import drop_repeats, limit_users
from toolkit.spec.schema import Dedup


def run(spec, **data):
    split = dataclasses.replace(spec.data.split, **data.pop("split", {}))
    whole = dataclasses.replace(spec.data, split=split, **data)
    spec = dataclasses.replace(spec, data=whole, evaluate=None)
    return prepare(spec, load_run_text(spec))


def kept(prepared, kind="prompts"):
    return [row["prompt"] for rows in prepared.records[kind].values() for row in rows]


def test_a_user_keeps_the_first_prompts_up_to_the_limit(write, spec_of):
    rows = [{"prompt": f"{user}{at}", "user": user} for at in range(5) for user in "ab"]
    rows += [{"prompt": f"nobody{at}"} for at in range(4)]
    prepared = run(spec_of(prompts=write("p.jsonl", *rows)), split={"per_user": 3})
    assert kept(prepared) == ["a0", "b0", "a1", "b1", "a2", "b2", *(f"nobody{n}" for n in range(4))]
    assert prepared.counts["prompts"]["over 3 prompts of a user"] == 4
    assert "over 3 prompts of a user" in prepared.warnings[0]


def test_two_hundred_prompts_of_a_user_stay_by_default(write, spec_of):
    rows = [{"prompt": f"p{at}", "user": "u"} for at in range(203)]
    counts = run(spec_of(prompts=write("p.jsonl", *rows))).counts["prompts"]
    assert (counts["kept"], counts["over 200 prompts of a user"]) == (200, 3)


def test_a_limit_counts_prompts_and_not_their_answers():
    rows = [Record(at, f"p{at // 3}", ("a", "b"), (1, 2), "u") for at in range(9)]
    assert [r.line for r in limit_users(rows, 2)] == [0, 1, 2, 3, 4, 5]


def test_prompts_that_begin_alike_count_as_one(write, spec_of):
    rows = [{"prompt": p} for p in ("abcdeX", "abcdeY", "abcd", "abcd", " abc  deZ", "abXdeX")]
    prepared = run(spec_of(prompts=write("p.jsonl", *rows)), dedup=Dedup(prefix=5))
    assert kept(prepared) == ["abcdeX", "abcd", " abc  deZ", "abXdeX"]
    assert prepared.counts["prompts"]["prompt begins like an earlier one (5 characters)"] == 2


def test_prompts_that_begin_alike_in_two_files_fall_on_one_side(write, spec_of):
    starts = [f"{at:03d} a long beginning " for at in range(60)]
    spec = spec_of(
        demonstrations=write("d.jsonl", *({"prompt": s + "one", "response": "r"} for s in starts)),
        prompts=write("p.jsonl", *({"prompt": s + "two"} for s in starts)),
        valid=0.4,
    )
    records = run(spec, dedup=Dedup(prefix=10)).records
    sides = {
        side: {r["prompt"][:10] for kind in records for r in records[kind][side]}
        for side in ("train", "valid")
    }  # fmt: skip
    assert sides["train"]
    assert sides["valid"]
    assert not sides["train"] & sides["valid"]


@pytest.mark.parametrize("seed", range(40))
def test_deduplication_agrees_with_comparing_all_pairs(seed):
    draw = random.Random(seed)
    prefix = draw.randrange(1, 6)
    prompts = ["".join(draw.choices("ab ", k=draw.randrange(1, 9))) + "a" for _ in range(60)]
    rows = [Record(at, prompt) for at, prompt in enumerate(prompts)]
    expected: list[Record] = []
    for row in rows:
        own, *others = (re.sub(r"\s+", " ", r.prompt).strip() for r in (row, *expected))
        if not any(own[:prefix] == other[:prefix] for other in others):
            expected.append(row)
    found = drop_repeats(rows, prefix)
    assert found == expected
    assert drop_repeats(found, prefix) == found
    several = [row._replace(responses=("x",)) for row in [*rows, *rows]]
    assert {r.prompt for r in drop_repeats(several, prefix)} == {r.prompt for r in found}
    assert len(drop_repeats(several, prefix)) >= 2 * len(found)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to jane.doe+x@mail.example.org today", "e-mail address"),
        ("card 4111 1111 1111 1111, thanks", "card number"),
        ("4111111111111112 is one digit off", None),
        ("0000000000000000", None),
        ("GB82 WEST 1234 5698 7654 32", "account number"),
        ("GB82 WEST 1234 5698 7654 33", None),
        ("my number is 078-05-1120", "social security number"),
        ("host 192.168.0.17 answers", "internet address"),
        ("version 1.2.3.4.5 and 300.1.1.1", None),
        ("2001:0db8:85a3:0000:0000:8a2e:0370:7334", "internet address"),
        ("call +49 30 1234567", "phone number"),
        ("call (212) 555-0123 now", "phone number"),
        ("212-555-0123", "phone number"),
        ("born 1999-12-31, pi is 3.14159265358979", None),
        ("1 + 2 = 3, 2024 and 10 000 000 people @home", None),
        ("what color is tomin ?", None),
        ("card 3782 822463 10005", "card number"),
        ("from 2011-03-08 2011-03-28 on", None),  # 16 digits whose last is a check digit
        ("reverse 4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1", None),
        ("41 11 11 11 11 11 11 11", None),
        ("call +1 (212) 555-0123.", "phone number"),
        ("100 200 3000 and 123 456 7890", None),
        ("+10 -20 -30 -40 +50", None),
    ],
)
def test_personal_data_is_found_by_its_form(text, kind):
    assert find_personal(text) == kind


def test_check_digits_catch_every_single_wrong_digit():
    card, account = "4111111111111111", "DE89370400440532013000"
    assert luhn(card)
    assert iban(account)
    for at in range(4, len(account)):
        for digit in "0123456789":
            wrong = account[:at] + digit + account[at + 1 :]
            assert iban(wrong) == (wrong == account)
    for at in range(len(card)):
        for digit in "0123456789":
            wrong = card[:at] + digit + card[at + 1 :]
            assert luhn(wrong) == (wrong == card)


def test_records_with_personal_data_are_dropped_and_counted_by_kind(write, spec_of):
    rows = [
        {"prompt": "mail a@b.de", "response": "x"},
        {"prompt": "who", "response": "ring 212-555-0123"},
        {"prompt": "what", "response": "that"},
    ]
    spec = spec_of(demonstrations=write("d.jsonl", *rows))
    assert len(kept(run(spec), "demonstrations")) == 3
    dropped = run(spec, personal="drop")
    assert kept(dropped, "demonstrations") == ["what"]
    assert dropped.counts["demonstrations"] | {
        "read": 3, "kept": 1,
        "with personal data: e-mail address": 1, "with personal data: phone number": 1,
    } == dropped.counts["demonstrations"]  # fmt: skip
