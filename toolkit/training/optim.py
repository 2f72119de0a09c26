"""Optimizers and learning rates: torch's AdamW and schedulers, set up from the spec."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    SequentialLR,
)

from toolkit.spec import schema
from toolkit.training.joined import Joined, are_joined

_CLIP_EPS = 1e-6  # torch adds it to the norm that it divides by


class Updater:
    """One model's optimizer, schedule and gradient clipping.

    Args:
        model: the model to update; its parameters stay fp32.
        config: betas, eps, weight decay, clip norm.
        lr: peak learning rate.
    """

    def __init__(self, model: torch.nn.Module, config: schema.Optimizer, lr: float) -> None:
        """Decay matrices only: biases, norms and other vectors are left out."""
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        matrices = [p for p in self.parameters if p.ndim >= 2]
        vectors = [p for p in self.parameters if p.ndim < 2]
        groups = [(matrices, config.weight_decay), (vectors, 0.0)]
        groups = [(parameters, decay) for parameters, decay in groups if parameters]
        joined = are_joined(self.parameters)
        self.joined = [Joined(parameters) for parameters, _ in groups] if joined else []
        updated = [[j.tensor] for j in self.joined] or [parameters for parameters, _ in groups]
        self.updated = [p for parameters in updated for p in parameters]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": parameters, "weight_decay": decay}
                for parameters, (_, decay) in zip(updated, groups, strict=True)
            ],
            lr=lr,
            betas=config.betas,
            eps=config.eps,
            fused=True,
        )
        self.clip_norm = config.clip_norm
        self.schedule: LRScheduler = LambdaLR(self.optimizer, _always_one)
        self.steps = 0

    @property
    def lr(self) -> float:
        """The rate of the next step."""
        return float(self.schedule.get_last_lr()[0])

    def grad_norm(self) -> float:
        """Global norm of the gradients as they stand."""
        return float(_norm(self.parameters))

    def step(self, check: Callable[[float], None]) -> float:
        """Clip, update, advance the schedule, clear the gradients.

        Return the norm before clipping.
        """
        for joined in self.joined:
            joined.gather()
        total = _norm(self.updated)
        norm = float(total)
        check(norm)  # one NaN would otherwise reach every weight, and the next checkpoint
        # torch's own factor; where it is 1 or more torch would multiply by 1
        clip = self.clip_norm
        if clip is not None and clip / (torch.tensor(norm) + _CLIP_EPS) < 1:
            torch.nn.utils.clip_grads_with_norm_(self.updated, clip, total, foreach=True)
        self.optimizer.step()
        self.schedule.step()
        self.clear()
        self.steps += 1
        return norm

    def clear(self) -> None:
        """Clear the gradients."""
        for joined in self.joined:
            joined.clear()
        if not self.joined:
            self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, object]:
        """Everything needed to continue."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "steps": self.steps,
        }

    def restore(self, state: dict[str, object]) -> None:
        """Continue from `state()`."""
        self.optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
        self.schedule.load_state_dict(state["schedule"])  # type: ignore[arg-type]
        self.steps = int(state["steps"])  # type: ignore[call-overload]


def _norm(parameters: Sequence[torch.nn.Parameter]) -> torch.Tensor:
    grads = [p.grad for p in parameters if p.grad is not None]
    return torch.nn.utils.get_total_norm(grads, foreach=True)


def _always_one(_: int) -> float:
    return 1.0


def make_updater(
    model: torch.nn.Module, config: schema.Optimizer, lr: float, plan: schema.Schedule, total: int
) -> Updater:
    """Make an updater whose rate follows `plan` over `total` optimizer steps."""
    updater = Updater(model, config, lr)
    after = max(1, total - plan.warmup)
    optimizer = updater.optimizer
    main: LRScheduler
    if plan.name == "cosine":
        main = CosineAnnealingLR(optimizer, T_max=after, eta_min=lr * plan.floor)
    elif plan.name == "linear":
        main = LinearLR(optimizer, start_factor=1.0, end_factor=plan.floor, total_iters=after)
    else:
        main = LambdaLR(optimizer, _always_one)
    updater.schedule = _with_warmup(optimizer, main, plan.warmup, start=1.0 / max(1, plan.warmup))
    return updater


def make_ppo_updater(
    model: torch.nn.Module, ppo: schema.Ppo, lr: float, *, per_iteration: int, total: int
) -> Updater:
    """Make an updater with PPO's rate.

    Linear from `warmup.start` over `warmup.iterations`, then constant (C.4) or annealed.
    """
    updater = Updater(model, ppo.optimizer, lr)
    warmup = ppo.warmup.iterations * per_iteration
    optimizer = updater.optimizer
    main: LRScheduler = LambdaLR(optimizer, _always_one)
    if ppo.anneal:
        after = max(1, total - warmup)
        main = LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=after)
    updater.schedule = _with_warmup(optimizer, main, warmup, start=ppo.warmup.start)
    return updater


def _with_warmup(
    optimizer: torch.optim.Optimizer, main: LRScheduler, steps: int, *, start: float
) -> LRScheduler:
    if steps == 0:
        return main
    rise = LinearLR(optimizer, start_factor=max(start, 1e-6), end_factor=1.0, total_iters=steps)
    return SequentialLR(optimizer, [rise, main], milestones=[steps])
