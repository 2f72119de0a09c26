"""Stage `data`: files or a task, to token ids in two sides. One step, no torch.

Writes tokenizer/, counts.json and, where there is such data, demonstrations.{train,valid}.jsonl,
prompts.{train,valid}.jsonl, rankings.jsonl, pretrain.{train,valid}.npy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from toolkit.data.lines import write_records
from toolkit.data.prepare import Prepared, load_run_text, load_task, prepare
from toolkit.data.pretrain_text import load_documents, make_streams
from toolkit.stages.context import StageContext, StageResult


class Data:
    """Prepare everything the other stages read."""

    def __init__(self, ctx: StageContext) -> None:
        """Keep the stage's world."""
        self.ctx = ctx
        self.prepared = Prepared()
        self.vocab = 0

    def setup(self) -> int:
        """Return the number of steps: one."""
        return 1

    def step(self, i: int) -> dict[str, float]:
        """Read, check, tokenize, divide and write everything.

        Raises:
            DataError: every problem of every file.
        """
        del i
        spec, work = self.ctx.spec, self.ctx.work
        task = load_task(spec)
        text = load_run_text(spec, task)
        self.vocab = text.vocab
        self.prepared = prepare(spec, text, task)
        text.save(work / "tokenizer")
        for kind, sides in self.prepared.records.items():
            for side, records in sides.items():
                name = f"{kind}.jsonl" if side == "all" else f"{kind}.{side}.jsonl"
                write_records(work / name, records)
        documents, counts = load_documents(spec, task)
        if documents:
            counts |= self._write_streams(make_streams(spec, text, documents, task is not None))
            self.prepared.counts["pretrain"] = counts
        return {"records": float(sum(c["read"] for c in self.prepared.counts.values()))}

    def state(self) -> dict[str, Any]:
        """Return nothing: a killed data stage starts again."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Do nothing; see `state`."""

    def finish(self) -> StageResult:
        """Write counts.json and say what was kept."""
        counts = self.prepared.counts
        (self.ctx.work / "counts.json").write_text(
            json.dumps(counts, indent=2) + "\n", encoding="utf-8"
        )
        summary = {"vocab": self.vocab, "counts": counts}
        return StageResult(summary=summary, warnings=tuple(self.prepared.warnings))

    def _write_streams(self, streams: Mapping[str, Any]) -> dict[str, int]:
        import numpy as np

        for side, stream in streams.items():
            np.save(self.ctx.work / f"pretrain.{side}.npy", stream)
        train, valid = len(streams["train"]), len(streams["valid"])
        return {"tokens": train + valid, "train": train, "valid": valid}


STAGE = Data
