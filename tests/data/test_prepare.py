"""Splits, limits and counts: nobody on both sides, nothing lost silently."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from toolkit.data.prepare import load_run_text, load_task, prepare
from toolkit.data.pretrain_text import load_documents, make_streams
from toolkit.spec.errors import DataError, SpecError
from toolkit.spec.schema import Data, Spec, Task
from toolkit.stages.context import StageContext
from toolkit.stages.data import STAGE


def run(spec: Spec):
    return prepare(spec, load_run_text(spec))


def prompts_of(prepared, kind: str, side: str) -> set[str]:
    return {row["prompt"] for row in prepared.records[kind][side]}


def test_a_user_is_on_one_side_in_every_file(write, spec_of) -> None:
    rows = [{"prompt": f"p{at}", "response": "r", "user": f"u{at % 40}"} for at in range(200)]
    owner = {row["prompt"]: row["user"] for row in rows}
    spec = spec_of(
        demonstrations=write("d.jsonl", *rows[:100]),
        prompts=write("p.jsonl", *rows[100:]),
        valid=0.3,
    )
    prepared = run(spec)
    sides = {
        side: {
            owner[p]
            for kind in ("demonstrations", "prompts")
            for p in prompts_of(prepared, kind, side)
        }
        for side in ("train", "valid")
    }
    assert sides["train"]
    assert sides["valid"]
    assert not sides["train"] & sides["valid"]


@pytest.mark.parametrize("by", ["user", "record"])
def test_records_name_their_user_where_users_divide_them(write, spec_of, by) -> None:
    rows = [{"prompt": f"p{at}", "user": f"u{at % 9}"} for at in range(60)]
    prepared = run(spec_of(prompts=write("p.jsonl", *rows), valid=0.3, by=by))
    owner = {row["prompt"]: row["user"] for row in rows} if by == "user" else {}
    kept = [row for side in prepared.records["prompts"].values() for row in side]
    assert all(row.get("user") == owner.get(row["prompt"]) for row in kept)


def test_a_prompt_held_out_for_one_user_is_dropped_for_another(write, spec_of) -> None:
    rows = [{"prompt": "same", "user": f"u{at}"} for at in range(50)]
    rows += [{"prompt": f"p{at}", "user": f"u{at}"} for at in range(50)]
    prepared = run(spec_of(prompts=write("p.jsonl", *rows), valid=0.3))
    assert "same" in prompts_of(prepared, "prompts", "valid")
    assert not prompts_of(prepared, "prompts", "train") & prompts_of(prepared, "prompts", "valid")
    counts = prepared.counts["prompts"]
    assert counts["prompt also held out"] > 0
    assert (
        counts["read"] == counts["train"] + counts["valid"] + counts["prompt also held out"] == 100
    )
    assert "prompt also held out" in prepared.warnings[0]


def test_the_split_depends_on_no_order(write, spec_of) -> None:
    rows = [{"prompt": f"p{at}"} for at in range(100)]
    one = run(spec_of(prompts=write("a.jsonl", *rows), valid=0.2))
    random.Random(0).shuffle(rows)
    two = run(spec_of(prompts=write("b.jsonl", *rows), valid=0.2))
    other = run(spec_of(prompts=write("b.jsonl", *rows), valid=0.2, seed=2))
    assert prompts_of(one, "prompts", "valid") == prompts_of(two, "prompts", "valid")
    assert prompts_of(one, "prompts", "valid") != prompts_of(other, "prompts", "valid")
    assert 10 <= len(prompts_of(one, "prompts", "valid")) <= 30


def test_split_by_record_divides_one_user(write, spec_of) -> None:
    rows = [{"prompt": f"p{at}", "user": "one"} for at in range(50)]
    counts = run(spec_of(prompts=write("a.jsonl", *rows), valid=0.5, by="record")).counts["prompts"]
    assert counts["train"] > 0
    assert counts["valid"] > 0


def test_lengths_at_the_limit_stay_and_longer_ones_are_counted(write, spec_of) -> None:
    rows = [{"prompt": "p" * n, "response": "r"} for n in (7, 8, 9, 20)]
    rows += [{"prompt": "q", "response": "r" * n} for n in (3, 4, 5)]  # and end-of-text: 4, 5, 6
    spec = spec_of(
        demonstrations=write("d.jsonl", *rows), text={"max_prompt": 8, "max_response": 5}
    )
    prepared = run(spec)
    assert prepared.counts["demonstrations"] == {
        "read": 7, "kept": 4, "train": 4, "valid": 0,
        "prompt over 8 tokens": 2, "response over 5 tokens": 1,
    }  # fmt: skip
    assert prepared.warnings == [
        "demonstrations: dropped 2 prompt over 8 tokens, 1 response over 5 tokens"
    ]
    longest = max(
        prepared.records["demonstrations"]["train"], key=lambda row: len(row["response_ids"])
    )
    assert len(longest["response_ids"]) == 5


def test_ranked_answers_end_with_end_of_text_and_long_ones_go(write, spec_of) -> None:
    rows = [
        {"prompt": "Q", "responses": ["a", "b" * 9, "c"], "ranks": [3, 2, 1], "labeler": "ann"},
        {"prompt": "R", "responses": ["a", "b" * 9], "ranks": [1, 2]},
        {"prompt": "S", "chosen": "a", "rejected": "b"},
    ]
    spec = spec_of(rankings=write("r.jsonl", *rows), text={"max_response": 5})
    prepared = run(spec)
    first, second = prepared.records["rankings"]["all"]
    assert (first["responses"], first["ranks"], first["labeler"]) == (["a", "c"], [3, 1], "ann")
    assert all(
        ids[-1] == 256 and len(ids) == 2 for row in (first, second) for ids in row["responses_ids"]
    )
    assert second["ranks"] == [1, 2]
    assert prepared.counts["rankings"]["answers over 5 tokens"] == 2
    assert prepared.counts["rankings"]["fewer than 2 answers within 5 tokens"] == 1


def test_problems_of_all_files_come_at_once(write, spec_of) -> None:
    spec = spec_of(
        demonstrations=write("d.jsonl", {"prompt": "x"}), prompts=write("p.jsonl", {"text": "x"})
    )
    with pytest.raises(DataError) as caught:
        run(spec)
    assert [Path(problem.file).name for problem in caught.value.problems] == ["d.jsonl", "p.jsonl"]


def test_a_run_without_a_tokenizer_says_what_to_set() -> None:
    with pytest.raises(SpecError, match=r"set text\.tokenizer"):
        load_run_text(Spec())


@pytest.mark.parametrize(("count", "valid"), [(3, 0.25), (400, 0.25), (3, 0.0)])
def test_pretraining_text_is_joined_by_end_of_text_and_divided(
    count: int, valid: float, write, spec_of
) -> None:
    spec = spec_of(
        pretrain=write("t.jsonl", *[{"text": f"{at:04d}"} for at in range(count)]), valid=valid
    )
    text = load_run_text(spec)
    documents, counts = load_documents(spec)
    streams = make_streams(spec, text, documents, False)
    assert counts == {"read": count}
    assert all(stream.dtype == np.int32 for stream in streams.values())
    assert sum(len(stream) for stream in streams.values()) == 5 * count
    assert sum(int((stream == text.eos_id).sum()) for stream in streams.values()) == count
    assert len(streams["valid"]) == pytest.approx(5 * count * valid, rel=0.3, abs=1)


def test_a_long_document_is_cut_in_pieces_without_loss(
    monkeypatch: pytest.MonkeyPatch, spec_of, tmp_path: Path
) -> None:
    monkeypatch.setattr("toolkit.data.pretrain_text._PIECE", 50)
    path = tmp_path / "t.txt"
    path.write_text("".join(f"line {at}\n" for at in range(100)))
    spec = spec_of(pretrain=str(path))
    text = load_run_text(spec)
    stream = make_streams(spec, text, load_documents(spec)[0], False)["train"]
    assert text.backend.decode(stream[:-1].tolist(), skip_special_tokens=False) == path.read_text()
    assert stream[-1] == text.eos_id
    assert int((stream == text.eos_id).sum()) == 1


@pytest.mark.parametrize("name", ["sort", "facts"])
def test_the_data_stage_writes_everything_the_others_read(name: str, tmp_path: Path) -> None:
    spec = Spec(
        data=Data(
            task=Task(name=name, demonstrations=100, prompts=80, valid_prompts=40, pretrain=300)
        )
    )
    stage = STAGE(
        StageContext(spec=spec, name="data", kind="data", round=0, work=tmp_path, inputs={})
    )
    assert stage.setup() == 1
    stage.step(0)
    result = stage.finish()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "tokenizer", "counts.json", "demonstrations.train.jsonl", "demonstrations.valid.jsonl",
        "prompts.train.jsonl", "prompts.valid.jsonl", "pretrain.train.npy", "pretrain.valid.npy",
    }  # fmt: skip
    row = json.loads((tmp_path / "demonstrations.train.jsonl").read_text().splitlines()[0])
    assert set(row) == {"prompt", "prompt_ids", "response", "response_ids"}
    assert row["response_ids"][-1] == result.summary["vocab"] - 1
    assert np.load(tmp_path / "pretrain.train.npy").dtype == np.int32
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert counts["demonstrations"] == {"read": 110, "kept": 110, "train": 100, "valid": 10}
    assert counts["pretrain"]["read"] == 300
    task = load_task(spec)
    assert task is not None
    held = {
        json.loads(line)["prompt"]
        for line in (tmp_path / "prompts.valid.jsonl").read_text().splitlines()
    }
    assert held == set(task.valid_prompts())


@pytest.mark.realdata
def test_public_seed_tasks_are_read_through_fields(realdata: Path) -> None:
    from toolkit.spec.schema import DataFile, Split, Text

    fields = {
        "prompt": "{instruction}\n\n{instances.0.input}",
        "response": "instances.0.output",
        "user": "id",
    }
    path = str(realdata / "seed_tasks.jsonl")
    text = Text(tokenizer=str(realdata / "gpt2-bpe"), max_prompt=256, max_response=256)
    spec = Spec(
        text=text,
        data=Data(
            demonstrations=DataFile(path=path, fields=fields),
            prompts=DataFile(path=path, fields={"prompt": fields["prompt"]}),
            pretrain=DataFile(path=str(realdata / "tinyshakespeare.txt")),
            split=Split(valid=0.1),
        ),
    )
    prepared = run(spec)
    counts = prepared.counts["demonstrations"]
    assert counts["read"] == 175
    assert sum(count for rule, count in counts.items() if rule not in ("read", "kept")) == 175
    assert counts["train"] > 120
    documents, _ = load_documents(spec)
    streams = make_streams(spec, load_run_text(spec), documents, False)
    assert sum(map(len, streams.values())) == 338026  # 338,025 GPT-2 tokens and one end-of-text
