"""The speed that the kernels are meant to reach on an H200, at 8192 rows of bfloat16.

The milliseconds follow from the bytes that must move at the rates measured there (a copy: 4.3 TB/s
read and written), so they hold for that device only; on others the share of the roofline counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_kernels.bench.goals import EAGER, LOGPROB, PPO, Goal, make_goals
from rlhf_kernels.bench.machine import Machine

DEVICE = "H200"
VOCABULARIES = (50257, 151936)
KL = ("exact_kl", "forward")
PPO_KL = ("ppo_loss_from_logits", "forward+backward with exact KL")
COMPILED = ("torch.compile",)

#: Text, case, milliseconds for each vocabulary, and providers with the least ratio to each.
LOGITS = (
    (
        "log-prob, entropy and logsumexp",
        LOGPROB,
        (0.195, 0.575),
        {
            "eager's plain log-prob": (("eager plain",), 9.0),
            "eager's with entropy": (EAGER, 16.0),
            "torch.compile's plain log-prob": (("torch.compile plain",), 2.5),
            "Liger's log-prob": (("Liger log-prob",), 1.03),
        },
    ),
    (
        "PPO from logits",
        PPO,
        (0.405, 1.22),
        {
            "eager's": (EAGER, 15.0),
            "torch.compile's": (COMPILED, 2.5),
            "Liger's GRPO": (("Liger GRPO loss",), 1.4),
        },
    ),
    ("exact KL", KL, (0.39, 1.16), {"torch.compile's": (COMPILED, 5.0)}),
    ("PPO, exact KL, entropy", PPO_KL, (0.61, 1.83), {"torch.compile's": (COMPILED, 6.0)}),
)

#: The ops over a linear head with 4096 hidden numbers: their products alone take nearly all of it.
LINEAR = (
    ("linear log-prob, D = 4096", ("linear_logprobs", "forward"), (4.7, 13.9), {}),
    (
        "linear PPO, D = 4096",
        ("linear_ppo_loss", "forward+backward"),
        (14.2, 42.0),
        {
            "Liger's linear GRPO": (("Liger linear GRPO",), 1.35),
            "torch.compile's in chunks": (("chunked torch.compile",), 1.2),
        },
    ),
)

#: Text, case, shape, milliseconds inside a graph, and the ratio as above.
SHORT = (
    (
        "shaping, GAE, whitening",
        ("advantages", "forward, whitened"),
        "512x1024",
        0.005,
        ("torch.compile's", ("torch.compile matrix",), 2.0),
    ),
    (
        "PPO from log-probs",
        ("ppo_loss", "forward+backward"),
        "64x1024",
        0.005,
        ("torch.compile's", COMPILED, 3.0),
    ),
    (
        "ranking loss",
        ("ranking_loss", "forward+backward"),
        "64x9",
        0.004,
        ("eager's", ("eager loop", "eager pairs"), 10.0),
    ),
)

SAMPLE = ("sample", "forward")
SAMPLE_MS = (0.009, 0.022)


def find_goals(machine: Machine) -> list[Goal]:
    """Return the goals for a machine: of the CPU, of an H200, or none for other GPUs."""
    if not machine.cuda:
        return make_goals()
    return make_device_goals() if DEVICE in machine.device else []


def make_device_goals() -> list[Goal]:
    """Return the goals for an H200."""
    return [*make_logits_goals(), *make_short_goals(), *make_sample_goals()]


def make_logits_goals() -> list[Goal]:
    """Return the goals of the ops on logits and on a linear head, and of free masked rows."""
    goals = []
    for text, case, limits, ratios in (*LOGITS, *LINEAR):
        for vocabulary, limit in zip(VOCABULARIES, limits, strict=True):
            shape = f"8192x{vocabulary}"
            goals.append(make_goal(text, case, shape, "median_ms", limit))
            for name, (providers, least) in ratios.items():
                words = f"{text}, {name} / time"
                goals.append(make_goal(words, case, shape, "ratio", least, providers))
    for vocabulary in VOCABULARIES:
        words = "log-prob with half of the rows masked / dense"
        goals.append(make_goal(words, LOGPROB, f"8192x{vocabulary}", "masked", 0.53))
    return goals


def make_short_goals() -> list[Goal]:
    """Return the goals of calls that a launch outweighs; their time is that inside a graph."""
    goals = []
    for text, case, shape, limit, (name, providers, least) in SHORT:
        goals += [
            make_goal(text, case, shape, "graph_ms", limit, dtype="float32", dense=False),
            make_goal(
                f"{text}, {name} / time",
                case,
                shape,
                "ratio",
                least,
                providers,
                dtype="float32",
                dense=False,
            ),
        ]
    return goals


def make_sample_goals() -> list[Goal]:
    """Return the goals of sampling without truncation."""
    goals = []
    words = "sampling, FlashInfer's and log_softmax / time"
    for vocabulary, limit in zip(VOCABULARIES, SAMPLE_MS, strict=True):
        shape = f"256x{vocabulary}"
        goals += [
            make_goal("sampling, log-prob, entropy", SAMPLE, shape, "graph_ms", limit),
            make_goal(words, SAMPLE, shape, "ratio", 2.0, ("FlashInfer sampling",)),
        ]
    return goals


def make_goal(
    text: str,
    case: tuple[str, str],
    shape: str,
    kind: str,
    limit: float,
    providers: Sequence[str] = (),
    *,
    dtype: str = "bfloat16",
    dense: bool = True,
) -> Goal:
    """Return one goal; its text names the shape."""
    return Goal(
        text=f"{text}, {shape}",
        case=case,
        dtype=dtype,
        providers=tuple(providers),
        limit=limit,
        kind=kind,  # type: ignore[arg-type]
        shape=shape,
        dense=dense,
    )
