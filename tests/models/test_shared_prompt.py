"""A prompt read once for its answers: the scores and gradients of answers read apart."""

from types import SimpleNamespace

import pytest
import torch
from transformers import GPT2Config

from tests.tiny import tiny_model
from toolkit.data.batches import collate
from toolkit.models.heads import Policy, Scorer
from toolkit.models.load import load_base, make_scalar
from toolkit.models.save import save_model
from toolkit.models.shared_prompt import shared_rows, widest_row
from toolkit.spec.schema import Hardware, ModelSource
from toolkit.training.random import Stream

PROMPTS = [[0, 1, 2, 3, 4, 8], [2, 6, 8], [5, 4, 3, 7, 1, 0, 8]]
ANSWERS = [[[1, 9], [3, 4, 9], [], [5, 9]], [[6, 9]], [[2, 9], [1, 1, 1, 9], [9]]]
SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2,
}  # fmt: skip
ABLE = ["gpt2", "llama", "qwen2", "gpt_neox"]


def able(kind, model, *args, **hardware):
    """A Scorer or Policy that reads a prompt once."""
    made = kind(model, *args, Hardware(**hardware))
    made.allow_rows()
    return made


def scores_of(scorer, answers=ANSWERS):
    return scorer.scores_of(scorer.collate(PROMPTS, answers))


def logprobs_of(policy):
    return policy.answer_logprobs(policy.collate(PROMPTS, ANSWERS))


def language_model(architecture, text, **config):
    if architecture == "gpt2":
        return tiny_model(text)
    sizes = {"hidden_size": 32, "n_layer": 2, "n_head": 2} if architecture == "bloom" else SIZES
    source = ModelSource(architecture=architecture, config=sizes | config)
    return load_base(source, text, Stream(1, "base"))


def make(architecture, text, tmp_path, **config):
    save_model(language_model(architecture, text, **config), tmp_path / architecture, text)
    return make_scalar(tmp_path / architecture, text, Stream(2, "head"))


def tokens_read(model, read):
    """What read() returns, and how many tokens the first layer computed for it."""
    seen = []
    layer = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))[0]
    handle = layer.register_forward_pre_hook(
        lambda _, given, named: seen.append(
            next(iter((*given, *named.values()))).shape[:2].numel()
        ),
        with_kwargs=True,
    )
    try:
        return read(), sum(seen)
    finally:
        handle.remove()


def passes(scorer):
    scorer.model.zero_grad()
    scores = scores_of(scorer)
    (scores * torch.linspace(-1, 1, len(scores))).sum().backward()
    return scores, {name: p.grad.clone() for name, p in scorer.model.named_parameters()}


@pytest.mark.parametrize("architecture", ABLE)
def test_scores_and_gradients_stay(text, tmp_path, architecture):
    model = make(architecture, text, tmp_path)
    ours, plain = able(Scorer, model), Scorer(model, Hardware())
    shared, few = tokens_read(model, lambda: passes(ours))
    apart, many = tokens_read(model, lambda: passes(plain))
    assert (few, many) == (3 * 14, 8 * 11)
    torch.testing.assert_close(shared[0], apart[0], rtol=2e-5, atol=2e-6)
    for name, grad in apart[1].items():
        torch.testing.assert_close(shared[1][name], grad, rtol=1e-3, atol=2e-6, msg=name)


def test_scores_are_those_of_each_answer_alone(text, tmp_path):
    scorer = able(Scorer, make("gpt2", text, tmp_path))
    scores = scores_of(scorer)
    each = [(p, a) for p, own in zip(PROMPTS, ANSWERS, strict=True) for a in own]
    alone = [scorer.scores(collate([p], [a], text.pad_id)) for p, a in each]
    torch.testing.assert_close(scores, torch.cat(alone), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("architecture", ABLE)
def test_log_probs_of_answers_and_their_gradients_stay(text, tmp_path, architecture):
    model = language_model(architecture, text)
    found = []
    plain = Policy(model, text.vocab, Hardware(), temperature=0.7)
    rows = Policy(model, text.vocab, Hardware(), temperature=0.7)
    rows.allow_rows()
    for policy in (rows, plain):
        model.zero_grad()
        each, tokens = tokens_read(model, lambda p=policy: logprobs_of(p))
        (each * torch.linspace(-1, 1, len(each))).sum().backward()
        grads = {name: p.grad.clone() for name, p in model.named_parameters()}
        found.append((each.detach(), grads, tokens))
    ours, plain = found
    assert (ours[2], plain[2]) == (3 * 14, 8 * 10)  # apart, an answer's last token is not read
    torch.testing.assert_close(ours[0], plain[0], rtol=2e-5, atol=2e-6)
    assert ours[0][2] == 0  # the empty answer
    for name, grad in plain[1].items():
        torch.testing.assert_close(ours[1][name], grad, rtol=1e-3, atol=2e-6, msg=name)


def test_an_answer_does_not_see_the_others(text, tmp_path):
    scorer = able(Scorer, make("llama", text, tmp_path))
    before = scores_of(scorer)
    changed = [[*own] for own in ANSWERS]
    changed[0][1] = [7, 7, 9]
    after = scores_of(scorer, changed)
    others = [i for i in range(len(before)) if i != 1]
    torch.testing.assert_close(after[others], before[others], rtol=0, atol=1e-6)
    assert (after[1] - before[1]).abs() > 1e-4


def test_a_model_that_goes_by_places_in_the_row_reads_answers_apart(text, tmp_path):
    """bloom's attention falls off with the distance in the row, whatever positions it is given."""
    model = make("bloom", text, tmp_path)
    assert widest_row(model) == 0
    (scores, _), tokens = tokens_read(model, lambda: passes(able(Scorer, model)))
    assert tokens >= 8 * 11
    torch.testing.assert_close(scores, passes(Scorer(model, Hardware()))[0])


def test_a_row_is_no_wider_than_what_a_model_looks_back(text, tmp_path):
    for window, expected in ((13, 8 * 11), (14, 3 * 14)):
        model = make("mistral", text, tmp_path, sliding_window=window)
        assert widest_row(model) == window
        scorer = able(Scorer, model)
        _, tokens = tokens_read(model, lambda s=scorer: scores_of(s))
        assert tokens == expected


@pytest.mark.parametrize(
    ("named", "widest"),
    [
        ({"local_window_len": 40, "sliding_window": 50}, 40),
        ({"attention_chunk_size": 30}, 30),
        ({"max_window_layers": 2, "sliding_window_pattern": 3}, float("inf")),
        ({"sliding_window": None, "use_sliding_window": True}, float("inf")),
        ({"sliding_window": 0}, float("inf")),
    ],
)
def test_windows_are_found_whatever_a_config_calls_them(text, tmp_path, named, widest):
    model = make("gpt2", text, tmp_path)
    for name, value in named.items():
        setattr(model.config, name, value)
    assert widest_row(model) == widest


def test_a_model_whose_attention_takes_no_mask_of_ours_reads_answers_apart(text, tmp_path):
    model = make("gpt2", text, tmp_path)
    model.set_attn_implementation("eager")
    assert widest_row(model) == 0


def test_the_trial_leaves_a_model_as_it_was(text, tmp_path):
    model = make("gpt2", text, tmp_path)
    for training in (True, False):
        model.train(training)
        assert widest_row(model) == float("inf")
        assert model.training is training
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("prompt", "answers", "size", "widest", "paid"),
    [
        (8, [2, 2, 2, 2], 32, 100, True),  # 16 of 40 tokens
        (2, [8, 8], 32, 100, False),  # 18 of 20
        (8, [8], 32, 100, False),  # one answer shares with nobody
        (8, [2, 2, 2, 2], 32, 15, False),
        (8, [], 32, 100, False),
        (256, [512] * 4, 4096, 1e9, True),  # three quarters of the tokens
        (256, [512] * 4, 256, 1e9, False),  # but attention over a row of 2304
        (8000, [100] * 9, 10**5, 1e9, False),  # a mask of 79 million
    ],
)
def test_rows_are_taken_where_they_are_clearly_faster(prompt, answers, size, widest, paid):
    model = SimpleNamespace(config=GPT2Config(n_embd=size, pad_token_id=0))
    rows = shared_rows(model, widest, [[1] * prompt], [[[1] * n for n in answers]])
    assert (rows is not None) is paid


def trunk_calls(model, read):
    """How often a gpt2's first layer was computed in both passes, and under which autocast."""
    calls = []
    handle = model.transformer.h[0].attn.register_forward_pre_hook(
        lambda *_: calls.append(torch.is_autocast_enabled("cpu"))
    )
    try:
        read().square().sum().backward()
    finally:
        handle.remove()
    return calls


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rows_are_computed_as_the_spec_says(text, tmp_path, precision, checkpointing):
    """In bf16, and with activations computed again."""
    hardware = {"precision": precision, "gradient_checkpointing": checkpointing}
    scorer = able(Scorer, make("gpt2", text, tmp_path), **hardware)
    policy = able(Policy, tiny_model(text), text.vocab, **hardware)
    for model, read in (
        (scorer.model, lambda: scores_of(scorer)), (policy.model, lambda: logprobs_of(policy))
    ):  # fmt: skip
        calls = trunk_calls(model, read)
        assert calls == [precision == "bf16"] * (1 + checkpointing)


def test_bf16_scores_are_as_near_as_apart(text, tmp_path):
    model = make("llama", text, tmp_path)
    truth = scores_of(Scorer(model, Hardware()))
    lowered = scores_of(able(Scorer, model, precision="bf16"))
    apart = scores_of(Scorer(model, Hardware(precision="bf16")))
    assert not torch.equal(lowered, truth)
    assert (lowered - truth).abs().max() <= 3 * (apart - truth).abs().max() + 1e-3


def test_recomputed_activations_change_nothing(text, tmp_path):
    model = make("gpt2", text, tmp_path)
    scores, grads = passes(able(Scorer, model))
    again = passes(able(Scorer, model, gradient_checkpointing=True))
    torch.testing.assert_close(again[0], scores, rtol=2e-5, atol=2e-6)
    for name, grad in grads.items():
        torch.testing.assert_close(again[1][name], grad, rtol=1e-3, atol=2e-6, msg=name)


def test_the_last_feed_forward_is_computed_at_the_ends_alone(text, tmp_path):
    scorer, seen = able(Scorer, make("gpt2", text, tmp_path)), []
    scorer.model.transformer.h[-1].mlp.c_fc.register_forward_hook(
        lambda _, given, out: seen.append(given[0].shape.numel() // 32)
    )
    scores_of(scorer)
    assert seen == [8]


def test_unless_a_stage_asks_answers_are_read_apart(text, tmp_path):
    model = make("gpt2", text, tmp_path)
    for scorer in (Scorer(model, Hardware()), able(Scorer, model, fused_head=False)):
        _, tokens = tokens_read(model, lambda s=scorer: scores_of(s))
        assert tokens == 8 * 11
    policy = able(Policy, tiny_model(text), text.vocab, fused_head=False)
    assert policy.widest == 0
