"""Stage `export`: copy the finished models out as Hugging Face folders with a card."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from toolkit.stages.context import StageContext, StageResult
from toolkit.stages.shared import needed, reward_folder, sft_folder

_CARD = """# {name}

| folder | load with | what it is |
|---|---|---|
{rows}

Made by `python -m toolkit run` from the spec saved in this run as `spec.resolved.yaml`, seed
{seed}.
A score is the sequence classifier's logit at the last real token, less `score_offset` of its
config.json.
Logits are meant over the first {vocab} ids; a padding id above that lies outside the softmax.
"""


class Export:
    """Copy folders in one step."""

    def __init__(self, ctx: StageContext) -> None:
        """Remember the context."""
        self.ctx, self.config = ctx, needed(ctx.spec.export)
        self.copied: dict[str, str] = {}

    def setup(self) -> int:
        """One step."""
        return 1

    def step(self, i: int) -> dict[str, float]:
        """Copy each folder that exists and is asked for."""
        for name, (folder, _) in self._folders().items():
            shutil.copytree(folder, self.ctx.work / name)
            self.copied[name] = str(folder)
        return {"folders": float(len(self.copied))}

    def _folders(self) -> dict[str, tuple[Path, str]]:
        ctx, wanted = self.ctx, {}
        causal, scalar = "AutoModelForCausalLM", "AutoModelForSequenceClassification"
        policy = sft_folder(ctx)
        if "learner" in ctx.inputs:
            ema = ctx.inputs["learner"] / "policy_ema"
            policy = (
                ema
                if self.config.weights == "ema" and ema.exists()
                else ctx.inputs["learner"] / "policy"
            )
        if policy is not None:
            wanted["policy"] = (policy, causal)
        reward = reward_folder(ctx)
        if self.config.reward and reward is not None:
            wanted["reward"] = (reward, scalar)
        if self.config.value and "learner" in ctx.inputs:
            value = ctx.inputs["learner"] / "value"
            wanted |= {"value": (value, scalar)} if value.exists() else {}
        return wanted

    def state(self) -> dict[str, Any]:
        """One step: nothing to keep."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """One step: nothing to continue."""

    def finish(self) -> StageResult:
        """Write the card."""
        from toolkit.stages.shared import text_of

        what = {"policy": "the policy", "reward": "the reward model", "value": "the value model"}
        rows = "\n".join(
            f"| `{name}/` | `{kind}` | {what[name]} |"
            for name, (_, kind) in self._folders().items()
        )
        spec = self.ctx.spec
        card = _CARD.format(
            name=spec.name, rows=rows, seed=spec.seed, vocab=text_of(self.ctx).vocab
        )
        (self.ctx.work / "README.md").write_text(card)
        return StageResult(summary={"folders": sorted(self.copied)})


STAGE = Export
