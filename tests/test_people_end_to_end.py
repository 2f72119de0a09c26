"""People rank on the page while a run waits, round after round, and it learns from them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from itertools import pairwise

import pytest

from tests.label.served import Client, records
from toolkit.__main__ import main

SPEC = """
extends: tiny
name: people
out: {out}
rounds: 2
hardware: {{device: cpu, threads: 1}}
data: {{task: {{name: sort, demonstrations: 64, prompts: 128, pretrain: 64}}}}
text: {{max_prompt: 6, max_response: 8}}
sft: {{epochs: 1, batch: 16}}
collect: {{prompts: 12, k: 3}}
label: {{by: people, overlap: 0.3, quorum: 0.75}}
reward: {{batch: 8, gate: null}}
ppo: {{episodes: 32, batch: 16, minibatch: 16, ema: null}}
evaluate: {{prompts: 16, weights: last, perplexity_tokens: 0}}
export: {{weights: last}}
"""


class Page:
    """What a browser knows of a server in another process."""

    def __init__(self, url: str) -> None:
        self.server_address = ("127.0.0.1", int(url.rstrip("/").rpartition(":")[2]))
        self.token = ""
        text = Client(self).ask("GET", "/")[1]
        self.token = re.search(r'"token": "([^"]+)"', text)[1]


@contextmanager
def labelling(run, root, labeler, said):
    """Run `python -m toolkit label` and end it with Ctrl-C; `said` gets what it says at the end."""
    words = [str(run), "--no-browser", "--port", "0", "--labeler", labeler]
    server = subprocess.Popen(
        [sys.executable, "-m", "toolkit", "label", *words],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said.append(server.stdout.readline().strip())
    yield Client(Page(re.search(r"http://\S+", server.stdout.readline())[0]))
    server.send_signal(signal.SIGINT)
    said.append(server.communicate(timeout=30)[0].strip())
    assert server.returncode == 0


def rank(client, labeler, count):
    """Rank as somebody would who likes sorted letters; equal answers tie."""
    done = []
    while len(done) < count and (task := client.task(labeler))["id"] is not None:
        worth = [sum(a > b for a, b in pairwise(t)) for t in task["answers"]]
        ranks = [1 + sorted(set(worth)).index(own) for own in worth]
        assert client.rank(task, ranks)[0] == 200
        done.append((task["prompt"], task["answers"], ranks, labeler))
    return done


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    (folder / "spec.yaml").write_text(SPEC.format(out=folder / "run"))
    return folder / "spec.yaml"


def test_two_rounds_are_ranked_on_the_page(spec, root, capsys):
    run, said = spec.parent / "run", []
    stages = run / "stages"
    assert main(["run", str(spec)]) == 6
    assert re.search(r"label\.1: 0 of 1\d prompts are ranked", capsys.readouterr().err)

    with labelling(run, root, "ann", said) as client:
        first = rank(client, "ann", 4)
    assert re.fullmatch(rf"label\.1 of {run}: 0 of 1\d prompts are ranked", said[0])
    assert re.match(
        r"4 of 1\d prompts are ranked; the run goes on from \d+ \(label.quorum", said[1]
    )
    assert main(["run", str(spec)]) == 6
    assert re.search(r"label\.1: 4 of 1\d prompts are ranked", capsys.readouterr().err)

    with labelling(run, root, "bob", said) as client:
        first += rank(client, "bob", 99)
        first += rank(client, "ann", 99)
    assert said[-1].endswith("are ranked: enough; type the same `run` command again to go on")
    assert main(["plan", str(spec)]) == 0
    assert re.search(r"label\.1 .* 12 prompts, 1\d of 1\d prompts", capsys.readouterr().out)
    assert main(["run", str(spec)]) == 6
    error = capsys.readouterr().err
    assert "collect.1: cached" in error
    assert re.search(r"label\.2: 0 of 1\d prompts are ranked", error)

    made = records(stages / "label.1/rankings.jsonl")
    assert [(r["prompt"], r["responses"], r["ranks"], r["labeler"]) for r in made] == first
    sampled = {r["prompt"]: r for r in records(stages / "collect.1/samples.jsonl")}
    for record in made:
        ids = dict(
            zip(
                *(sampled[record["prompt"]][k] for k in ("responses", "responses_ids")), strict=True
            )
        )
        assert [ids[answer] for answer in record["responses"]] == record["responses_ids"]
        assert record["round"] == 1
    labels = json.loads((stages / "label.1/labels.json").read_text())
    assert set(labels["labelers"]) == {"ann", "bob"}
    both = {p for p, *_, who in first if who == "ann"} & {p for p, *_, who in first if who == "bob"}
    assert labels["agreement"]["all"]["prompts"] == len(both) > 0
    assert labels["agreement"]["all"]["agreement"] == 1.0
    assert (stages / "reward.1/model/model.safetensors").exists()
    accuracy = json.loads((stages / "reward.1/accuracy.json").read_text())
    assert set(accuracy["by_labeler"]) <= {"ann", "bob"}

    with labelling(run, root, "cy", said) as client:
        second = rank(client, "cy", 99)
    assert said[-2].startswith(f"label.2 of {run}: 0 of ")
    assert main(["run", str(spec)]) == 0
    both_rounds = records(stages / "label.2/rankings.jsonl")
    assert [r["round"] for r in both_rounds] == [1] * len(first) + [2] * len(second)
    assert both_rounds[: len(made)] == made
    assert (run / "report.html").exists()
    capsys.readouterr()
    assert main(["explain", str(run), "label.2"]) == 0
    assert "  ranked/label.2.jsonl: " in capsys.readouterr().out
    assert main(["label", str(run)]) == 1
    assert "label.2 is done, and so is the run" in capsys.readouterr().err


def test_another_tools_rankings_are_imported_and_the_run_goes_on(spec, tmp_path, capsys):
    run, file = tmp_path / "run", tmp_path / "tasks.jsonl"
    words = [str(spec), f"out={run}", "rounds=1", "ppo=null", "evaluate=null", "export=null"]
    assert main(["run", *words, "--until", "label"]) == 6
    assert main(["label", str(run), "--export", str(file)]) == 0
    assert re.search(r"1\d prompts for \S+ to rank for label\.1", capsys.readouterr().out)
    tasks = records(file)
    rows = [task | {"ranks": [1] * len(task["responses"]), "labeler": "ann"} for task in tasks]
    rows[0]["ranks"][0] = 0
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["label", str(run), "--import", str(file)]) == 3
    error = capsys.readouterr().err
    assert f"{file}:1  ranks  expected whole numbers from 1 (best), got a number (0)" in error
    rows[0]["ranks"] = list(range(1, 1 + len(rows[0]["ranks"])))
    rows[1]["ranks"][-1] = 2
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["label", str(run), "--import", str(file)]) == 0
    out = capsys.readouterr().out
    assert f"{run / 'ranked/label.1.jsonl'}: added {len(rows)} of {len(rows)} rankings\n" in out
    assert out.rstrip().endswith("type the same `run` command again to go on")
    assert main(["run", *words]) == 0
    made = records(run / "stages/label.1/rankings.jsonl")
    assert [r["ranks"] for r in made] == [r["ranks"] for r in rows]
    assert (run / "stages/reward.1/model").is_dir()
