"""Memory of a PPO step as the vocabulary grows: `python -m specs.compare.vocab_memory`.

One process per point: a GPT-2 of 4 layers x 256, 32 sequences of 32 + 32 tokens, one forward and
backward pass of the policy objective and one AdamW step, twice. What is printed is the process'
peak beyond its memory with the model loaded, and that less gradients and AdamW's two moments: what
the step itself takes. `fused`: hardware.fused_head; `logits`: the model's own logits.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

from specs.compare.measure import memory

VOCABS = (4096, 16384, 32768, 65536, 131072, 250000)
MEGABYTE = 1e6


def step_once(vocab: int, fused: bool) -> dict[str, float]:
    """Run two PPO steps in this process; return its figures in MB."""
    import torch

    from toolkit.data.batches import collate
    from toolkit.data.tasks.base import EOS, make_word_tokenizer
    from toolkit.data.template import make_template
    from toolkit.data.tokenize import make_text
    from toolkit.models.compute import prepare_products
    from toolkit.models.heads import Policy
    from toolkit.models.load import load_base
    from toolkit.spec.schema import Hardware, ModelSource, Optimizer
    from toolkit.training.device import set_up_memory
    from toolkit.training.optim import Updater
    from toolkit.training.random import Stream

    prepare_products("cpu")
    set_up_memory()
    words = make_word_tokenizer([f"w{i}" for i in range(vocab - 1)])
    text = make_text(words, make_template("{prompt} {response}"), EOS)
    config = {"n_layer": 4, "n_embd": 256, "n_head": 4, "n_positions": 64}
    model = load_base(ModelSource(architecture="gpt2", config=config), text, Stream(1, "base"))
    policy = Policy(model, text.vocab, Hardware(fused_head=fused))
    updater = Updater(model, Optimizer(), 1e-5)
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(0, vocab - 1, (32, 64), generator=draw).tolist()
    batch = collate([row[:32] for row in ids], [row[32:] for row in ids], text.pad_id)
    loaded = memory("VmRSS")
    for _ in range(2):
        for _, micro in policy.micro(batch):
            old = torch.full((micro.tokens,), -8.0)
            advantages = torch.randn(micro.tokens, generator=draw)
            policy.backward_policy_loss(
                micro, old, advantages, cliprange=0.2, denominator=batch.tokens
            )
        updater.step(lambda norm: None)
    weights = 4.0 * sum(p.numel() for p in model.parameters())
    peak = memory("VmHWM") - loaded
    return {
        "weights_mb": weights / MEGABYTE,
        "peak_mb": peak / MEGABYTE,
        "step_mb": (peak - 3 * weights) / MEGABYTE,
    }


def measure(folder: Path) -> list[dict[str, object]]:
    """Measure every point in a process of its own, print it, and write the table."""
    rows: list[dict[str, object]] = []
    for vocab in VOCABS:
        for head in ("fused", "logits"):
            command = [sys.executable, "-m", "specs.compare.vocab_memory", "--point", str(vocab)]
            done = subprocess.run([*command, head], capture_output=True, text=True, check=True)
            row = {"V": vocab, "head": head, **json.loads(done.stdout)}
            print(
                "  ".join(
                    f"{k} {v:.0f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()
                ),
                flush=True,
            )
            rows.append(row)
    with (folder / "vocab_memory.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return rows


def plot(rows: list[dict[str, object]], path: Path) -> None:
    """Draw what the step takes over V, both ways."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5))
    names = {"fused": "from hidden states (fused_head: true)", "logits": "the model's own logits"}
    for head, name in names.items():
        mine = [row for row in rows if row["head"] == head]
        axes.plot([row["V"] for row in mine], [row["step_mb"] for row in mine], "o-", label=name)
    axes.set_xlabel("vocabulary")
    axes.set_ylabel("MB of a PPO step beyond\nweights, gradients and AdamW")
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Measure all points, or the one point that a process is for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--point", nargs=2, metavar=("V", "HEAD"), help="one point, as JSON")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder")
    options = parser.parse_args()
    if options.point:
        print(json.dumps(step_once(int(options.point[0]), options.point[1] == "fused")))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    plot(measure(options.out), options.out / "vocab_memory.svg")


if __name__ == "__main__":
    main()
