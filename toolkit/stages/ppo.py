"""Stage `ppo`: PPO against the reward model, with the pretraining term (InstructGPT 3.5, C.4).

    maximise  E[ r(x,y) - kl_coef * log(pi_RL(y|x) / pi_ref(y|x)) ]  +  ptx_coef * E_pretrain[ log
    pi_RL(x) ]

One step here is one iteration: sample a batch of episodes, then inner_epochs passes over it in
minibatches. For each minibatch
the PPO gradient and the pretraining gradient are computed one after the other and accumulated, then
one optimizer step.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import torch

import rlhf_kernels as rk
from toolkit.data.batches import Batch, collate, windows
from toolkit.data.lines import read_records, write_records
from toolkit.data.oracle import load_oracle, load_scorer
from toolkit.models.save import save_model
from toolkit.rollout import sample_answers
from toolkit.spec.schema import Sampling
from toolkit.stages.context import StageContext, StageResult
from toolkit.stages.experience import Experience, clip_of, make_experience
from toolkit.stages.kl_control import KlControl
from toolkit.stages.ppo_models import continues, load_models
from toolkit.stages.shared import backward_cross_entropy, needed, needed_text, stream_of, text_of
from toolkit.stages.watch import Watch, add_statistics, join, objective
from toolkit.training.device import move, read_rows
from toolkit.training.ema import make_ema
from toolkit.training.guard import check_finite, norm_check
from toolkit.training.optim import make_ppo_updater
from toolkit.training.random import Order


class PPO:
    """Train the policy and its value function."""

    def __init__(self, ctx: StageContext) -> None:
        """Remember the context."""
        self.ctx, self.config, self.stream = ctx, needed(ctx.spec.ppo), stream_of(ctx)
        self.watch = Watch(ctx, self.config.stop_if.kl_above)
        self.kl = KlControl(self.config.kl)
        self.last: Experience | None = None

    def setup(self) -> int:
        """Load the models, prompts and pretraining text; set the optimizers up."""
        ctx, config = self.ctx, self.config
        self.text = text_of(ctx)
        self.prompts = read_records(ctx.inputs["data"] / "prompts.train.jsonl")
        self.order = Order(self.stream, len(self.prompts))
        self.models = load_models(ctx, self.text)
        minibatches = config.batch // config.minibatch
        per_iteration = config.inner_epochs * minibatches
        iterations = config.episodes // config.batch
        steps = {"per_iteration": per_iteration, "total": iterations * per_iteration}
        self.updater = make_ppo_updater(self.models.policy.model, config, config.lr, **steps)
        self.value_updater = make_ppo_updater(
            self.models.value.model, config, config.value.lr, **steps
        )
        self.ema = None if config.ema is None else make_ema(self.models.policy.model, config.ema)
        self.pretrain = self._pretrain_text()
        self.oracle = load_oracle(ctx.spec)
        extra = config.extra_reward
        self.extra = None if extra is None else load_scorer(extra.fn, "ppo.extra_reward.fn")
        return iterations

    def _pretrain_text(self) -> torch.Tensor | None:
        ptx = self.config.ptx
        if ptx is None or ptx.coef == 0:
            return None
        return needed_text(self.ctx, ptx.length, "ppo.ptx.length")

    def step(self, i: int) -> dict[str, float]:
        """One iteration: sample, score, then update in minibatches."""
        experience = self._sample(i)
        self.watch.before_update(i, experience)
        seen: list[dict[str, float]] = []
        lr = self.updater.lr
        for epoch in range(self.config.inner_epochs):
            order = torch.from_numpy(
                self.stream.permutation(self.config.batch, "minibatch", i, epoch)
            )
            for m, rows in enumerate(order.split(self.config.minibatch)):
                # the value function first: it frees the graph that its values may have kept
                stats = self._value_step(i, experience, rows)
                stats.update(self._policy_step(i, experience, rows))
                if i == 0 and epoch == 0 and m == 0:
                    self.watch.first_minibatch(experience, stats, same=not continues(self.ctx))
                if self.ema is not None:
                    self.ema.update_parameters(self.models.policy.model)
                seen.append(stats)
        self.last = experience
        figures = {
            **objective(experience, self.kl.now.coef, self.oracle),
            **join(seen),
            "lr": lr,
        }
        self.kl.update(figures["objective/kl"], self.config.batch)
        return figures | {"tokens": float(experience.batch.tokens)}

    def _sample(self, i: int) -> Experience:
        """Answer a batch of prompts with the present policy, and score the answers."""
        config = self.config
        first = i * config.batch
        chosen = [self.prompts[p] for p in self.order.take(first, config.batch)]
        prompt_ids = [c["prompt_ids"] for c in chosen]
        answers = sample_answers(
            self.models.policy,
            self.text,
            prompt_ids,
            sampling=Sampling(temperature=config.temperature),
            draws=(self.stream, "answer", range(first, first + config.batch)),
            max_response=self.ctx.spec.text.max_response,
        )
        batch = collate(prompt_ids, answers.ids, self.text.pad_id)
        behaviour = self.watch.behaviour(self.models.policy, batch, answers)
        responses = [self.text.decode_response(ids)[0] for ids in answers.ids]
        texts = ([c["prompt"] for c in chosen], responses, answers.finished)
        return make_experience(
            replace(config, kl=self.kl.now),
            self.models,
            batch,
            behaviour,
            texts,
            self.extra,
            once=self._once(batch),
        )

    def _once(self, batch: Batch) -> bool:
        """Whether a batch is learned from once, whole and in one pass."""
        config = self.config
        whole = config.minibatch == config.batch and config.inner_epochs == 1
        return whole and len(self.models.value.micro(batch)) == 1

    def _policy_step(self, i: int, experience: Experience, rows: torch.Tensor) -> dict[str, float]:
        """PPO gradient, then the pretraining gradient, accumulated; one optimizer step."""
        stats = self._backward_ppo(i, experience, rows)
        if self.pretrain is not None:
            stats.update(self._backward_ptx(i))
        stats["ppo/total_grad_norm"] = self.updater.step(
            norm_check(self.ctx, i, ids=experience.batch.rows(rows).ids)
        )
        return stats

    def _backward_ppo(self, i: int, experience: Experience, rows: torch.Tensor) -> dict[str, float]:
        config, batch = self.config, experience.batch.rows(rows)
        in_loss = config.kl.place == "loss"
        parts = self.models.policy.micro(batch)
        seen: list[list[torch.Tensor]] = []
        stats: dict[str, torch.Tensor] = {}
        for span, micro in parts:
            mine = move(experience.batch.slots(rows[span]), self.models.policy.device)
            loss, stats = self.models.policy.backward_policy_loss(
                micro,
                experience.logprobs.flatten()[mine],
                experience.advantages.flatten()[mine],
                cliprange=clip_of(config, config.cliprange),
                entropy_coef=config.entropy_coef,
                kl_coef=self.kl.now.coef if in_loss else 0.0,
                kl_estimator=config.kl.estimator if in_loss else "k3",
                ref_logprobs=experience.ref_logprobs.flatten()[mine] if in_loss else None,
                denominator=batch.tokens,
            )
            seen.append([loss, *stats.values()])
        sums: dict[str, float] = defaultdict(float)
        for (_, micro), (own, *figures) in zip(parts, read_rows(seen), strict=True):
            check_finite(self.ctx, i, "the policy loss", own, ids=micro.ids)
            add_statistics(sums, dict(zip(stats, figures, strict=True)), "ppo/policy/")
        return {**sums, "ppo/grad_norm": self.updater.grad_norm()}

    def _backward_ptx(self, i: int) -> dict[str, float]:
        """Add ptx_coef times the gradient of the mean token cross-entropy on pretraining text."""
        ptx = self.config.ptx
        assert ptx is not None
        assert self.pretrain is not None
        count = max(1, round(ptx.ratio * self.config.minibatch))
        generator = self.stream.numpy("ptx", self.updater.steps)
        starts = generator.integers(0, len(self.pretrain) - ptx.length, size=count).tolist()
        held = [(p, p.grad) for p in self.updater.parameters]
        for parameter, _ in held:
            parameter.grad = None
        batch = windows(self.pretrain, starts, ptx.length)
        loss = backward_cross_entropy(self.models.policy, batch, weight=ptx.coef)
        check_finite(self.ctx, i, "the pretraining loss", loss, ids=batch.ids)
        norm = self.updater.grad_norm()
        for parameter, grad in held:
            if grad is not None:
                parameter.grad = grad if parameter.grad is None else parameter.grad.add_(grad)
        return {"ptx/loss": loss, "ptx/grad_norm": norm}

    def _value_step(self, i: int, experience: Experience, rows: torch.Tensor) -> dict[str, float]:
        """Clipped value loss, one optimizer step of the value model."""
        config, batch = self.config.value, experience.batch.rows(rows)
        parts = self.models.value.micro(batch)
        device = self.models.value.device
        seen: list[list[torch.Tensor]] = []
        for span, micro in parts:
            mine, live = move(rows[span], device), experience.live_values
            loss, stats = rk.value_loss(
                self.models.value.values_of(micro) if live is None else live[mine],
                experience.values[mine],
                experience.returns[mine],
                move(micro.mask, device),
                cliprange_value=clip_of(self.config, config.cliprange),
                denominator=batch.tokens,
            )
            (config.vf_coef * loss).backward()
            seen.append([loss.detach(), stats["clipfrac"]])
        sums = {"ppo/val/loss": 0.0, "ppo/val/clipfrac": 0.0}
        for (_, micro), (own, clipped) in zip(parts, read_rows(seen), strict=True):
            check_finite(self.ctx, i, "the value loss", own, ids=micro.ids)
            sums["ppo/val/loss"] += own
            sums["ppo/val/clipfrac"] += clipped
        return {
            **sums,
            "ppo/val/grad_norm": self.value_updater.step(norm_check(self.ctx, i, ids=batch.ids)),
        }

    def state(self) -> dict[str, Any]:
        """All weights that change, both optimizers, the average, the audit, what is watched."""
        return {
            "policy": self.models.policy.model.state_dict(),
            "value": self.models.value.model.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "updater": self.updater.state(),
            "value_updater": self.value_updater.state(),
            "watch": self.watch.state(),
            "kl": self.kl.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self.models.policy.model.load_state_dict(state["policy"])
        self.models.value.model.load_state_dict(state["value"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.updater.restore(state["updater"])
        self.value_updater.restore(state["value_updater"])
        self.watch.restore(state["watch"])
        self.kl.restore(state["kl"])

    def finish(self) -> StageResult:
        """Save the policy, its average, the value model, and the last answers."""
        work, text = self.ctx.work, self.text
        save_model(self.models.policy.model, work / "policy", text)
        save_model(self.models.value.model, work / "value", text)
        if self.ema is not None:
            save_model(self.ema.module, work / "policy_ema", text)
        if self.last is not None:
            rows = zip(
                self.last.prompts, self.last.responses, self.last.scores.tolist(), strict=True
            )
            records = [{"prompt": p, "response": r, "score": s} for p, r, s in rows]
            write_records(work / "samples.jsonl", records[:64])
        summary = {"optimizer_steps": self.updater.steps, **self.watch.summary()}
        summary["value_optimizer_steps"] = self.value_updater.steps
        return StageResult(summary=summary, warnings=self.watch.warnings)


STAGE = PPO
