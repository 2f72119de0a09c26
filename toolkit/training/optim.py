"""Optimizers and learning rates: torch's AdamW and schedulers, set up from the spec."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    SequentialLR,
)

from toolkit.spec import schema

_FEW_NUMBERS = 1 << 20
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
        groups = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            [g for g in groups if g["params"]],
            lr=lr,
            betas=config.betas,
            eps=config.eps,
            fused=True,
        )
        self.clip_norm = config.clip_norm
        self.numbers = sum(p.numel() for p in self.parameters)
        self.schedule: LRScheduler = LambdaLR(self.optimizer, _always_one)
        self.steps = 0

    @property
    def lr(self) -> float:
        """The rate of the next step."""
        return float(self.schedule.get_last_lr()[0])

    def grad_norm(self) -> float:
        """Global norm of the gradients as they stand."""
        with _alone(self.numbers):
            return float(self._norm())

    def _norm(self) -> torch.Tensor:
        grads = [p.grad for p in self.parameters if p.grad is not None]
        return torch.nn.utils.get_total_norm(grads, foreach=True)

    def step(self, check: Callable[[float], None]) -> float:
        """Clip, update, advance the schedule, clear the gradients.

        Return the norm before clipping.
        """
        with _alone(self.numbers):
            total = self._norm()
            norm = float(total)
            check(norm)  # one NaN would otherwise reach every weight, and the next checkpoint
            # torch's own factor; where it is 1 or more torch would multiply by 1
            clip = self.clip_norm
            if clip is not None and clip / (torch.tensor(norm) + _CLIP_EPS) < 1:
                torch.nn.utils.clip_grads_with_norm_(self.parameters, clip, total, foreach=True)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        return norm

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


@contextmanager
def _alone(numbers: int) -> Iterator[None]:
    """Compute by one thread where tensors together have few numbers.

    Many operators over little are done before a second thread has woken: an updater's work for
    600 000 numbers takes .85 of the time, and its sums do not depend on the number of threads.
    """
    threads = torch.get_num_threads()
    if numbers > _FEW_NUMBERS or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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
