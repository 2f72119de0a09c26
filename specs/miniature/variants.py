"""The runs of the miniature: what each changes in specs/miniature.yaml, and what it waits for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LARGE = "{n_layer: 4, n_embd: 272, n_head: 4, n_positions: 112}"
"""3.7 M parameters, ten times the small model's."""

PTX_COEFS = (5.0, 20.0, 27.8)
"""Beside 0 (the variant ppo) and 1 (the variant ptx)."""

KL_COEFS = (0.0, 0.02, 0.5, 2.0)
"""Without ptx, beside that of the spec (the variant ppo)."""

ELEMENTS = ("reward.epochs=4", "collect.prompts=3000")
"""The two runs that compare elements of the reward model: fewer comparisons, several passes."""


@dataclass(frozen=True)
class Job:
    """One call of `python -m toolkit run`.

    Args:
        seed: of the run.
        name: of the run; its folder is out/seed<seed>/<name>.
        overrides: what it changes.
        until: last stage; None: all.
        needs: names of jobs of the same seed that come first; here a name may be "ptx:reward".
    """

    seed: int
    name: str
    overrides: tuple[str, ...] = ()
    until: str | None = None
    needs: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What other jobs call it, such as "ptx:reward" or "ppo"."""
        return self.name if self.until is None else f"{self.name}:{self.until}"

    def arguments(self, out: Path, more: Sequence[str]) -> list[str]:
        """Return the arguments of `run`; `more` are the user's own overrides."""
        folder = out / f"seed{self.seed}"
        words = [f"seed={self.seed}", f"name={self.name}", f"out={folder / self.name}"]
        # what is switched off stays off, whatever the user sets below it
        off = [word for word in self.overrides if word.endswith("=null")]
        words += [f"share={folder}", *self.overrides, *more, *off]
        return words + (["--until", self.until] if self.until else [])


def jobs(seeds: Sequence[int], swept: Sequence[int], out: Path) -> Iterator[Job]:
    """Yield every job, each after those it needs; `swept` seeds also run the sweeps."""
    for seed in seeds:
        yield Job(seed, "ptx", until="reward")
        yield Job(seed, "large", _size(), until="sft")
        yield Job(seed, "ptx", needs=("ptx:reward",))
        yield Job(seed, "ppo", ("ppo.ptx.coef=0",), needs=("ptx:reward",))
        judge = out / f"seed{seed}" / "ptx" / "stages" / "reward.1" / "model"
        over = (*_size(), f"models.reward_trained.path={judge}", "reward.gate=null", "ppo=null")
        yield Job(seed, "large", over, needs=("ptx:reward", "large:sft"))
        yield Job(seed, "prompts", ELEMENTS, until="reward", needs=("ptx:reward",))
        pairs = (*ELEMENTS, "reward.element=pair", "reward.batch=48")
        yield Job(seed, "pairs", pairs, until="reward", needs=("ptx:reward", "prompts:reward"))
    for seed in swept:
        for value in PTX_COEFS:
            over = (f"ppo.ptx.coef={value:g}",)
            yield Job(seed, f"ptx-{value:g}", over, needs=("ptx:reward",))
        for value in KL_COEFS:
            over = ("ppo.ptx.coef=0", f"ppo.kl.coef={value:g}")
            yield Job(seed, f"kl-{value:g}", over, needs=("ptx:reward",))


def _size() -> tuple[str, ...]:
    return (f"models.base.config={LARGE}", "pretrain.lr=1e-3", "pretrain.steps=900")
