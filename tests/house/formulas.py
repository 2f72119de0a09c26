"""toolkit/ holds no formula of its own: RLHF mathematics goes through rlhf_kernels.

Two halves. The scan refuses the building blocks of those formulas in toolkit/: softmaxes, losses,
exponentials of tensors, clamps, whitening, and the loss that transformers computes when it is given
labels. The other half asks that each term of the paper is called, from the file that needs it.
"""

from __future__ import annotations

import ast
from pathlib import Path

#: Call names refused everywhere in toolkit/, with what to use instead.
REFUSED = {
    "softmax": "gather_logprobs",
    "log_softmax": "gather_logprobs",
    "logsumexp": "gather_logprobs",
    "cross_entropy": "gather_logprobs",
    "linear_cross_entropy": "gather_logprobs",
    "nll_loss": "gather_logprobs",
    "CrossEntropyLoss": "gather_logprobs",
    "logsigmoid": "ranking_loss",
    "sigmoid": "ranking_loss",
    "softplus": "ranking_loss",
    "binary_cross_entropy_with_logits": "ranking_loss",
    "margin_ranking_loss": "ranking_loss",
    "kl_div": "token_kl or exact_kl",
    "exp": "ppo_loss, which forms the ratio",
    "expm1": "token_kl",
    "mse_loss": "value_loss",
    "rsqrt": "gae(whiten=True)",
}

#: Refused besides on the floors that train; elsewhere these bound indices and lengths.
REFUSED_IN_TRAINING = {
    "clamp": "ppo_loss or value_loss, which clip",
    "clip": "ppo_loss or value_loss, which clip",
    "minimum": "ppo_loss or value_loss",
    "maximum": "ppo_loss or value_loss",
    "std": "gae(whiten=True)",
}
TRAINING = ("toolkit/stages/", "toolkit/training/", "toolkit/models/")

#: (owner, name) pairs that are not tensor mathematics: plain floats and Python numbers.
ALLOWED = {("math", "exp")}

#: Calls that are no term of the recipe, each with its reason.
EXCEPTIONS = {
    # The model's own attention.
    "toolkit/models/attention.py": {"softmax"},
    # A model reads no token -1, which stands for logits that are no numbers.
    "toolkit/models/steps.py": {"clamp"},
    # The confidence interval of a win rate.
    "toolkit/stages/verdicts.py": {"std"},
    # The win probability of a Bradley-Terry fit, over models, not tokens.
    "toolkit/report/elo.py": {"exp"},
}

#: What each part of the recipe must call; any one name of a row will do.
USED: dict[str, tuple[set[str], ...]] = {
    "toolkit/models": (
        {"linear_logprobs"},
        {"linear_ppo_loss"},
        {"linear_cross_entropy"},
    ),
    "toolkit/stages": (
        {"shaped_rewards"},
        {"gae"},
        {"value_loss"},
        {"ranking_loss"},
        {"kto_loss"},
        {"token_kl", "exact_kl"},
    ),
}


def owner_and_name(call: ast.Call) -> tuple[str, str]:
    """Return ("torch", "exp") for torch.exp(x), ("x", "exp") for x.exp()."""
    function = call.func
    if isinstance(function, ast.Attribute):
        return ast.unparse(function.value), function.attr
    return "", function.id if isinstance(function, ast.Name) else ""


def check_formulas(root: Path) -> list[str]:
    """Report building blocks of RLHF formulas in toolkit/."""
    found = []
    for path in sorted((root / "toolkit").rglob("*.py")):
        name = path.relative_to(root).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                why = judge_call(name, node)
                if why:
                    found.append(f"{name}:{node.lineno}: {why}")
    return found


def judge_call(name: str, call: ast.Call) -> str | None:
    """Return what is wrong with one call, or None."""
    owner, function = owner_and_name(call)
    refused = REFUSED
    if name.startswith(TRAINING):
        refused = REFUSED | REFUSED_IN_TRAINING
        if any(keyword.arg == "labels" for keyword in call.keywords):
            return "labels= makes transformers compute the loss; use gather_logprobs"
    if owner in {"rk", "rlhf_kernels"} or (owner, function) in ALLOWED:
        return None
    if function in refused and function not in EXCEPTIONS.get(name, set()):
        return f"{function}() belongs to rlhf_kernels: {refused[function]}"
    return None


def kernel_calls(folder: Path) -> set[str]:
    """Return the names of rlhf_kernels that the files of a folder call."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in folder.rglob("*.py")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    pairs = [owner_and_name(call) for call in calls]
    return {function for owner, function in pairs if owner in {"rk", "rlhf_kernels"}}


def check_kernels_used(root: Path) -> list[str]:
    """Report parts of the recipe that do not call the kernel they should."""
    found = []
    for name, rows in USED.items():
        calls = kernel_calls(root / name)
        found += [f"{name}: nothing calls {' or '.join(sorted(r))}" for r in rows if not r & calls]
    return found
