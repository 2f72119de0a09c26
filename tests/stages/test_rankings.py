"""DPO and KTO: losses against independent formulas, micro-batches, resume, whole runs."""

import math
from itertools import combinations

import pytest
import torch

import rlhf_kernels as rk
from tests.end_to_end import SPEC, done, run_tiny
from toolkit.data.batches import collate
from toolkit.models import shared_prompt
from toolkit.spec.errors import StageFailed
from toolkit.spec.load import load_spec
from toolkit.stages import StageContext, execute
from toolkit.stages.dpo import DirectPreference
from toolkit.stages.kto import KahnemanTversky, signs_of
from toolkit.training.loop import configure

SECTIONS = {
    "dpo": "dpo={batch: 8, lr: 1e-3, beta: 0.3}",
    "kto": "kto={batch: 8, lr: 1e-3, beta: 0.3, desirable: 1.2, undesirable: 0.8}",
}
CLASSES = {"dpo": DirectPreference, "kto": KahnemanTversky}


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    run_tiny(out, until="label")
    return out / "stages"


def context(stages, kind, work, *overrides):
    spec = load_spec(SPEC, ["ppo=null", SECTIONS[kind], *overrides]).spec
    names = {"data": "data", "pretrain": "pretrain", "sft": "sft", "label": "label.1"}
    inputs = {read: stages / name for read, name in names.items()}
    return StageContext(
        spec=spec, name=f"{kind}.1", kind=kind, round=1, work=work, inputs=inputs, threads=2
    )


def ready(stages, kind, work, *overrides):
    ctx = context(stages, kind, work, *overrides)
    configure(ctx)
    stage = CLASSES[kind](ctx)
    stage.setup()
    work.mkdir()
    return stage


def gradients(stage):
    return torch.cat([p.grad.flatten() for p in stage.updater.parameters])


def plain_logprobs(model, prompts, answers):
    """Sum the log-probs of answers one sequence at a time, from transformers' own logits."""
    sums = []
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([prompt + answer])
        logprobs = model(ids).logits[0, :, : model.vocab].double().log_softmax(-1)
        places = torch.arange(len(prompt) - 1, len(prompt) + len(answer) - 1)
        sums.append(logprobs[places, torch.tensor(answer)].sum())
    return torch.stack(sums)


def moved(stage, steps=3):
    """Take the policy away from the reference, and return the records of the next step."""
    for i in range(steps):
        stage.step(i)
    for policy in (stage.policy, stage.reference):
        policy.model.vocab = policy.vocab
    return stage._taken(steps, 0)


def plain_ratios(stage, records, others=None):
    others = records if others is None else others
    pairs = zip(records, others, strict=True)
    prompts, answers = zip(
        *((r["prompt_ids"], ids) for r, o in pairs for ids in o["responses_ids"]), strict=True
    )
    with torch.no_grad():
        theirs = plain_logprobs(stage.reference.model, prompts, answers)
    return plain_logprobs(stage.policy.model, prompts, answers) - theirs


def plain_dpo(ratios, records, beta, smoothing):
    """Write the loss pair by pair."""
    total, prompts, start = 0.0, 0, 0
    for record in records:
        ranks, own = record["ranks"], ratios[start : start + len(record["ranks"])]
        start += len(ranks)
        losses = []
        for a, b in combinations(range(len(ranks)), 2):
            if ranks[a] != ranks[b]:
                win, lose = (a, b) if ranks[a] < ranks[b] else (b, a)
                h = beta * (own[win] - own[lose])
                losses.append(
                    (1 - smoothing) * torch.log1p(torch.exp(-h))
                    + smoothing * torch.log1p(torch.exp(h))
                )
        if losses:
            total, prompts = total + torch.stack(losses).mean(), prompts + 1
    return total / prompts


def plain_kto(ratios, records, beta, z0):
    losses = []
    for ratio, sign in zip(ratios, (s for r in records for s in signs_of(r["ranks"])), strict=True):
        if sign:
            weight = 1.2 if sign > 0 else 0.8
            losses.append(weight * (1 - 1 / (1 + torch.exp(-sign * beta * (ratio - z0)))))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_dpo_step_is_the_gradient_of_the_formula_pair_by_pair(stages, tmp_path, smoothing):
    stage = ready(stages, "dpo", tmp_path / "w", f"dpo.label_smoothing={smoothing}")
    records = moved(stage)
    truth = plain_dpo(plain_ratios(stage, records), records, 0.3, smoothing)
    truth.backward()
    expected = gradients(stage)
    stage.updater.clear()
    values = stage._backward(3, records)
    assert values["loss"] == pytest.approx(truth.item(), abs=1e-5)
    assert (gradients(stage) - expected).norm() < 1e-4 * expected.norm()
    assert values["kl"] != 0


def test_the_kto_step_is_the_gradient_of_the_formula_answer_by_answer(stages, tmp_path):
    stage = ready(stages, "kto", tmp_path / "w")
    records = moved(stage)
    with torch.no_grad():
        mismatched = plain_ratios(stage, records, stage._taken(3, 1)).mean().item()
    kl, count = stage.shared(3, records)
    assert kl.item() == pytest.approx(mismatched, abs=1e-4)
    assert count == sum(sign != 0 for r in records for sign in signs_of(r["ranks"]))
    truth = plain_kto(plain_ratios(stage, records), records, 0.3, max(0.0, mismatched))
    truth.backward()
    expected = gradients(stage)
    stage.updater.clear()
    values = stage._backward(3, records)
    assert values["loss"] == pytest.approx(truth.item(), abs=1e-5)
    assert (gradients(stage) - expected).norm() < 1e-4 * expected.norm()
    assert stage.z0 == pytest.approx(max(0.0, mismatched), abs=1e-4)


def test_mismatched_answers_are_those_of_the_next_prompt_of_the_epoch(stages, tmp_path):
    stage = ready(stages, "kto", tmp_path / "w")
    last = stage.per_epoch - 1
    whole = [r["prompt"] for i in range(stage.per_epoch) for r in stage._taken(i, 0)]
    shifted = [r["prompt"] for i in range(stage.per_epoch) for r in stage._taken(i, 1)]
    assert shifted == [*whole[1:], whole[0]]
    assert stage._taken(last, 1)[-1]["prompt"] == whole[0]


@pytest.mark.parametrize(
    ("ranks", "signs"),
    [
        ([1, 2], [1, -1]),
        ([3, 1, 2], [-1, 1, 0]),
        ([1, 2, 3, 4], [1, 1, -1, -1]),
        ([1, 1, 1, 2], [0, 0, 0, -1]),
        ([1, 1, 2, 3], [1, 1, -1, -1]),
        ([1, 1], [0, 0]),
    ],
)
def test_answers_above_the_median_rank_are_desirable(ranks, signs):
    assert signs_of(ranks) == signs


def test_a_pair_worked_out_by_hand():
    # beta 0.5, log-ratios ln 9 and 0: the implicit rewards differ by ln 3
    ratios = torch.tensor([math.log(9), 0.0], dtype=torch.float64, requires_grad=True)
    loss, stats = rk.ranking_loss(0.5 * ratios, torch.tensor([1, 2]), torch.tensor([0, 2]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(4 / 3))
    assert ratios.grad.tolist() == pytest.approx([-0.125, 0.125])
    assert stats["margin"].item() == pytest.approx(math.log(3))


@pytest.mark.parametrize("kind", CLASSES)
def test_the_first_step_starts_at_the_reference(stages, tmp_path, kind):
    values = ready(stages, kind, tmp_path / "w").step(0)
    assert values["kl"] == 0.0
    assert values["margin"] == 0.0
    assert values["accuracy"] == 0.5
    assert values["loss"] == pytest.approx(math.log(2) if kind == "dpo" else 0.5, abs=0.11)
    assert values["grad_norm"] > 0


@pytest.mark.parametrize("kind", CLASSES)
def test_micro_batches_accumulate_to_the_gradient_of_the_batch(stages, tmp_path, kind):
    found = []
    for size in (1, 5, 1000):
        stage = ready(stages, kind, tmp_path / str(size), f"hardware.micro_batch={size}")
        values = stage._backward(0, stage._taken(0, 0))
        found.append((gradients(stage), values))
    for gradient, values in found[:2]:
        assert (gradient - found[2][0]).norm() < 1e-5 * found[2][0].norm()
        assert values == pytest.approx(found[2][1], abs=1e-5)


@pytest.mark.parametrize("kind", CLASSES)
def test_a_stage_continued_from_a_checkpoint_ends_in_the_same_bits(
    stages, tmp_path, kind, monkeypatch
):
    class KilledError(Exception):
        pass

    options = ("checkpoint.every=3 steps", f"{kind}.epochs=2")
    execute(context(stages, kind, tmp_path / "whole", *options))
    real = CLASSES[kind].step

    def step(self, i):
        if i == 14:
            raise KilledError
        return real(self, i)

    with monkeypatch.context() as patch:
        patch.setattr(CLASSES[kind], "step", step)
        with pytest.raises(KilledError):
            execute(context(stages, kind, tmp_path / "cut", *options))
    result = execute(context(stages, kind, tmp_path / "cut", *options))
    for file in ("policy/model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert len(result.summary["held_out"]) == 2


@pytest.mark.parametrize("kind", CLASSES)
def test_answers_without_a_difference_teach_nothing_and_are_refused(stages, tmp_path, kind):
    stage = ready(stages, kind, tmp_path / "w")
    tied = [{**r, "ranks": [1] * len(r["ranks"])} for r in stage.train[:3]]
    assert not any(map(stage.useful, tied))
    folder = tmp_path / "label.1"
    folder.mkdir()
    (folder / "rankings.jsonl").write_text("")
    ctx = context(stages, kind, tmp_path / "v")
    ctx.inputs["label"] = folder
    with pytest.raises(StageFailed, match="two answers of different rank"):
        CLASSES[kind](ctx).setup()


def test_answer_logprobs_add_up_the_tokens(stages, tmp_path):
    stage = ready(stages, "dpo", tmp_path / "w")
    record = stage.train[0]
    batch = collate(
        [record["prompt_ids"]] * len(record["ranks"]), record["responses_ids"], stage.text.pad_id
    )
    ours = stage.policy.answer_logprobs(batch)
    torch.testing.assert_close(ours, stage.policy.logprobs(batch)[0].sum(1))


@pytest.mark.parametrize("kind", CLASSES)
def test_a_step_is_the_same_with_a_prompt_read_once_and_again_for_each_answer(
    stages, tmp_path, monkeypatch, kind
):
    monkeypatch.setattr(shared_prompt, "_WORTH", 9.0)  # these answers are short
    rows, apart = (ready(stages, kind, tmp_path / name) for name in ("rows", "apart"))
    assert rows.policy.widest == float("inf")
    apart.policy.widest = 0
    figures = [stage._backward(0, stage._taken(0, 0)) for stage in (rows, apart)]
    assert figures[0] == pytest.approx(figures[1], abs=1e-5)
    ours, plain = gradients(rows), gradients(apart)
    assert 0 < (ours - plain).norm() < 1e-4 * plain.norm()


@pytest.mark.parametrize("kind", CLASSES)
def test_a_whole_run_ends_in_an_evaluation_and_needs_no_reward_model(tmp_path, kind):
    run_tiny(tmp_path / "run", "ppo=null", SECTIONS[kind], "evaluate.win_rate=[oracle]")
    assert not (tmp_path / "run" / "stages" / "reward.1").exists()
    result = done(tmp_path / "run", "evaluate")["summary"]
    assert set(result["models"]) == {"sft", f"{kind}_last"}
    assert set(result["judges"]) == {"oracle"}
    assert result["models"][f"{kind}_last"]["kl"] != 0
    assert done(tmp_path / "run", "export")["summary"]["folders"] == ["policy"]
