"""How much each stage does, counted before it runs. The stages are tested against this."""

from __future__ import annotations

import math

from toolkit.data.mixture import Mixture
from toolkit.pipeline.counts import Counts
from toolkit.pipeline.graph import Node
from toolkit.spec.schema import Dpo, Init, Kto, Ppo, Pretrain, Reward, Sft, Spec


def pretrain_steps(pretrain: Pretrain) -> int:
    """Optimizer steps of pretrain."""
    return pretrain.steps


def sft_steps(sft: Sft, demonstrations: int) -> int:
    """Optimizer steps of sft: epochs * ceil(demonstrations / batch)."""
    return sft.epochs * math.ceil(demonstrations / sft.batch)


def init_steps(init: Init, demonstrations: int) -> int:
    """Optimizer steps of init: epochs times the batches that hold each demonstration once."""
    return init.sft_epochs * Mixture(init.batch, init.pretrain_mix).steps(demonstrations)


def reward_steps(section: Reward | Dpo | Kto, prompts: int) -> int:
    """Optimizer steps of reward, dpo or kto: epochs * ceil(ranked prompts / batch)."""
    return section.epochs * math.ceil(prompts / section.batch)


def collect_prompts(spec: Spec, prompts: int) -> int:
    """Prompts that collect answers: as many as asked for, or all there are."""
    return min(spec.collect.prompts, prompts) if spec.collect else 0


def ppo_iterations(ppo: Ppo) -> int:
    """Rollouts of PPO: episodes / batch, which `check` holds to be whole."""
    return ppo.episodes // ppo.batch


def ppo_optimizer_steps(ppo: Ppo) -> int:
    """Optimizer steps of PPO: iterations * inner_epochs * (batch / minibatch)."""
    return ppo_iterations(ppo) * ppo.inner_epochs * (ppo.batch // ppo.minibatch)


def optimizer_steps(spec: Spec, node: Node, counts: Counts) -> int | None:
    """Return the optimizer steps of a stage; None where there are none or records are unknown."""
    if node.kind == "pretrain" and spec.pretrain is not None:
        return pretrain_steps(spec.pretrain)
    if node.kind == "sft" and spec.sft is not None and counts.demonstrations is not None:
        return sft_steps(spec.sft, counts.demonstrations)
    init = spec.ppo.init if spec.ppo is not None else None
    if node.kind == "init" and init is not None and counts.demonstrations is not None:
        return init_steps(init, counts.demonstrations)
    if node.kind == "ppo" and spec.ppo is not None:
        return ppo_optimizer_steps(spec.ppo)
    if node.kind == "folds":
        return fold_training_steps(spec, counts)
    return ranking_steps(spec, node, counts)


def ranking_steps(spec: Spec, node: Node, counts: Counts) -> int | None:
    """Optimizer steps of reward, dpo or kto, estimated; None for other stages.

    The held-out share is drawn prompt by prompt. None too where single pairs are the elements: how
    many of them are no ties is known after labelling.
    """
    if node.kind == "reward" and spec.reward.element == "pair":
        return None
    section = _on_rankings(spec, node.kind)
    prompts = training_rankings(spec, node.round, counts)
    if section is None or prompts is None:
        return None
    return reward_steps(section, round(prompts * (1.0 - spec.data.split.valid)))


def _on_rankings(spec: Spec, kind: str) -> Reward | Dpo | Kto | None:
    sections = {"reward": spec.reward, "dpo": spec.dpo, "kto": spec.kto}
    return sections.get(kind)


def fold_training_steps(spec: Spec, counts: Counts) -> int | None:
    """Optimizer steps of folds, estimated: each fold trains without its share of the labelers."""
    prompts = training_rankings(spec, spec.rounds, counts)
    if prompts is None or spec.folds is None or spec.reward.element == "pair":
        return None
    count = spec.folds.count
    each = prompts * (1.0 - spec.data.split.valid) * (1.0 - 1.0 / count)
    return count * reward_steps(spec.reward, round(each))


def work_text(spec: Spec, node: Node, counts: Counts) -> str:
    """Return the work of a stage in words, such as "500 iterations, 4000 optimizer steps"."""
    texts = {
        "pretrain": _pretrain,
        "sft": _sft,
        "init": _init,
        "select": _select,
        "collect": _collect,
        "label": _label,
        "folds": _folds,
        "ppo": _ppo,
        "evaluate": _evaluate,
    }
    text = texts.get(node.kind, _from_rankings)
    return text(spec, node, counts)


def _pretrain(spec: Spec, node: Node, counts: Counts) -> str:
    if spec.pretrain is None:
        return ""
    tokens = spec.pretrain.steps * spec.pretrain.batch * spec.pretrain.length
    return f"{spec.pretrain.steps} steps, {tokens} tokens"


def _sft(spec: Spec, node: Node, counts: Counts) -> str:
    if spec.sft is None:
        return ""
    kept = f", keeps {spec.sft.epochs} models" if spec.sft.select == "reward" else ""
    if counts.demonstrations is None:
        return _epochs(spec.sft.epochs) + kept
    steps = sft_steps(spec.sft, counts.demonstrations)
    return f"{_epochs(spec.sft.epochs)}, {steps} steps{kept}"


def _init(spec: Spec, node: Node, counts: Counts) -> str:
    init = spec.ppo.init if spec.ppo is not None else None
    if init is None:
        return ""
    mix = f"{_epochs(init.sft_epochs)} with {init.pretrain_mix:.0%} pretraining text"
    if counts.demonstrations is None:
        return mix
    return f"{mix}, {init_steps(init, counts.demonstrations)} steps"


def _select(spec: Spec, node: Node, counts: Counts) -> str:
    if spec.sft is None:
        return ""
    prompts = min(spec.sft.select_prompts, counts.valid_prompts or spec.sft.select_prompts)
    return f"{_epochs(spec.sft.epochs)}, {prompts} answers each"


def _collect(spec: Spec, node: Node, counts: Counts) -> str:
    if spec.collect is None:
        return ""
    low, high = spec.collect.k
    answers = f"{low}" if low == high else f"{low} to {high}"
    if counts.prompts is None:
        return f"up to {spec.collect.prompts} prompts, {answers} answers each"
    return f"{collect_prompts(spec, counts.prompts)} prompts, {answers} answers each"


def ranked_prompts(spec: Spec, rounds: int, counts: Counts) -> int | None:
    """Ranked prompts of so many rounds, collected or of data.rankings; None: unknown."""
    if spec.collect is not None and counts.prompts is None:
        return None
    collected = rounds * collect_prompts(spec, counts.prompts or 0)
    if spec.data.rankings is not None and counts.rankings is None:
        return None
    return collected + (counts.rankings or 0)


def training_rankings(spec: Spec, rounds: int, counts: Counts) -> int | None:
    """Rankings by labelers who are not held out, estimated where several rank a prompt."""
    prompts, people = ranked_prompts(spec, rounds, counts), spec.label.labelers
    if prompts is None or people is None:
        return prompts
    given = counts.rankings or 0
    each = 1.0 - people.overlap + people.overlap * (people.raters or people.count)
    return given + round((prompts - given) * each * (1.0 - people.held_out / people.count))


def _label(spec: Spec, node: Node, counts: Counts) -> str:
    prompts = ranked_prompts(spec, node.round, counts)
    if prompts is None:
        return ""
    people = spec.label.labelers
    return f"{prompts} prompts" + (f", {people.count} labelers" if people is not None else "")


def _from_rankings(spec: Spec, node: Node, counts: Counts) -> str:
    section, steps = _on_rankings(spec, node.kind), ranking_steps(spec, node, counts)
    if section is None:
        return ""
    return _epochs(section.epochs) + ("" if steps is None else f", about {steps} steps")


def _folds(spec: Spec, node: Node, counts: Counts) -> str:
    if spec.folds is None:
        return ""
    steps = fold_training_steps(spec, counts)
    models = f"{spec.folds.count} reward models"
    return models if steps is None else f"{models}, about {steps} steps"


def _ppo(spec: Spec, node: Node, counts: Counts) -> str:
    if spec.ppo is None:
        return ""
    steps = ppo_optimizer_steps(spec.ppo)
    return f"{ppo_iterations(spec.ppo)} iterations, {steps} optimizer steps"


def _evaluate(spec: Spec, node: Node, counts: Counts) -> str:
    if spec.evaluate is None:
        return ""
    prompts = spec.evaluate.prompts
    if counts.valid_prompts is not None:
        return f"{min(prompts, counts.valid_prompts)} prompts"
    return f"up to {prompts} prompts"


def _epochs(number: int) -> str:
    return f"{number} epoch" + ("" if number == 1 else "s")
