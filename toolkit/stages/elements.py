"""Rankings to batches: who trains, what is held out, what an element is, how a pass is cut."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from toolkit.data.batches import cut_groups
from toolkit.stages.shared import Record
from toolkit.training.random import key_of


def split_by_prompt(
    records: list[Record], share: float, seed: int
) -> tuple[list[Record], list[Record]]:
    """Hold out `share` of the prompts (of the users, where records name them).

    Nobody stands on both sides, whatever the order. A record that the data stage put on a side
    stays there, and so do its prompt, and the prompts of a user who has one to train on. A prompt
    held out for one user is dropped from another's training, as the data stage does.
    """
    train: list[Record] = []
    valid: list[Record] = []
    fixed = {r["prompt"]: r["split"] for r in records if "split" in r}
    trained_on = {r["user"] for r in records if r.get("split") == "train" and r.get("user")}
    for record in records:
        owner = str(record.get("user") or record["prompt"])
        held = key_of(seed, "held-out rankings", owner) / 2**128 < share
        drawn = "valid" if held and record.get("user") not in trained_on else "train"
        side = record.get("split") or fixed.get(record["prompt"], drawn)
        (valid if side == "valid" else train).append(record)
    prompts = {r["prompt"] for r in valid}
    return [r for r in train if r["prompt"] not in prompts], valid


def by_trainer(records: list[Record]) -> tuple[list[Record], list[Record]]:
    """Part (rankings that may train, rankings of held-out labelers)."""
    ours = [r for r in records if not r.get("labeler_held_out")]
    return ours, [r for r in records if r.get("labeler_held_out")]


def as_elements(records: list[Record], element: str, ties: str) -> list[Record]:
    """Return the records as they are ("prompt"), or one record for each of their pairs ("pair").

    With single pairs an answer among K stands in K-1 elements, which a shuffled epoch meets in as
    many different batches: the overfitting that InstructGPT 3.5 describes. Tied pairs are left out
    with ties: drop.
    """
    if element == "prompt":
        return records
    return [
        _part(record, pair)
        for record in records
        for pair in combinations(range(len(record["ranks"])), 2)
        if ties == "half" or record["ranks"][pair[0]] != record["ranks"][pair[1]]
    ]


def _part(record: Record, places: tuple[int, int]) -> Record:
    """Return the record with the answers at `places` only."""
    own = {key: [record[key][at] for at in places] for key in ("responses_ids", "ranks")}
    return {"prompt": record["prompt"], "prompt_ids": record["prompt_ids"], **own}


def by_answers(records: list[Record], limit: int | None) -> list[list[Record]]:
    """Cut into parts of at most `limit` answers, never inside a prompt."""
    return [records[part] for part in cut_groups([len(r["ranks"]) for r in records], limit)]


def tokens(record: Record) -> int:
    """Tokens of the prompt with its longest answer."""
    return len(record["prompt_ids"]) + max(len(ids) for ids in record["responses_ids"])


def _mean_length(record: Record) -> float:
    return float(np.mean([len(ids) for ids in record["responses_ids"]]))


def by_source(
    records: list[Record], scores: list[Tensor]
) -> dict[str, tuple[list[Record], list[Tensor]]]:
    """Return source -> records and scores, cut down to the answers that came from it.

    A prompt with fewer than two answers of a source has no comparison there, and rankings that came
    as a file name no source.
    """
    found: dict[str, tuple[list[Record], list[Tensor]]] = {}
    for record, own in zip(records, scores, strict=True):
        for name in set(record.get("source", ())):
            places = [at for at, source in enumerate(record["source"]) if source == name]
            if len(places) > 1:
                held = found.setdefault(name, ([], []))
                held[0].append(record | {"ranks": [record["ranks"][at] for at in places]})
                held[1].append(own[torch.tensor(places, device=own.device)])
    return dict(sorted(found.items()))


def length_range(records: list[Record]) -> Callable[[Record], str]:
    """Name the third of the prompts a record is in, by the mean tokens of its answers."""
    lengths = [_mean_length(r) for r in records] or [0.0]
    cuts = np.quantile(lengths, [1 / 3, 2 / 3]).tolist()
    names = (f"under {cuts[0]:.1f} tokens", f"to {cuts[1]:.1f}", f"from {cuts[1]:.1f}")
    return lambda record: names[int(np.searchsorted(cuts, _mean_length(record), side="right"))]
