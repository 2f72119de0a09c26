"""Sampling by steps of one shape; on a CPU, unrecorded, they draw what sampling without does."""

import warnings

import pytest
import torch

from tests.models.judged import assert_as_accurate, judge
from tests.models.sampled import EVEN, EVERY, PADDED, SEED, SHARED, answer, both
from tests.models.tape import Tape
from tests.tiny import tiny_model, tiny_text
from toolkit import rollout
from toolkit.models import graphs, recording
from toolkit.models.cache import FixedLayer, make_cache, make_fixed_cache
from toolkit.models.heads import Policy
from toolkit.models.load import load_base
from toolkit.models.steps import sizes_of
from toolkit.pipeline import identity
from toolkit.pipeline.machine import Machine
from toolkit.spec.load import load_spec
from toolkit.spec.schema import Hardware, Sampling
from toolkit.training.random import Stream


@pytest.fixture(scope="module")
def text():
    return tiny_text()


@pytest.fixture
def tapes(steps, monkeypatch):
    """Sampling takes the steps, recorded by a tape."""
    made = []

    def capture(step, aside, pool):
        aside()
        step()
        aside()
        made.append(Tape())
        with made[-1]:
            step()
        return made[-1].replay

    monkeypatch.setattr(recording, "capture", capture)
    return made


@pytest.mark.parametrize("prompts", [PADDED, EVEN, SHARED], ids=["padded", "even", "shared"])
@pytest.mark.parametrize("name", EVERY)
def test_steps_draw_what_sampling_without_them_draws(text, name, prompts, steps, monkeypatch):
    model = load_base(EVERY[name], text, Stream(1, "base"))
    how = {"sampling": Sampling(temperature=2.0, top_k=9), "most": 40}
    ours, theirs = both(
        lambda: Policy(model, text.vocab, Hardware(), 2.0), text, prompts, monkeypatch, **how
    )
    assert ours.ids == theirs.ids
    assert ours.finished == theirs.finished
    assert len({len(ids) for ids in ours.ids}) > 1
    torch.testing.assert_close(ours.logprobs, theirs.logprobs, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.entropy, theirs.entropy, rtol=0, atol=1e-4)
    assert max(steps) == 32
    assert min(steps) < 32, "nobody has left"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", EVERY)
def test_a_recording_serves_every_step_and_every_batch(text, name, precision, tapes, monkeypatch):
    """Whatever of Python decides about a step, or a cast kept from another, would show here."""
    model = load_base(EVERY[name], text, Stream(1, "base"))
    hardware = Hardware(precision=precision)
    policy = Policy(model, text.vocab, hardware, 2.0)
    sampling = Sampling(temperature=2.0, top_k=9)
    for prompts in (PADDED, EVEN[::-1], PADDED[3:]):
        ours, theirs = both(lambda: policy, text, prompts, monkeypatch, sampling=sampling, most=40)
        draws = (SEED, range(len(prompts)), sampling)
        assert_as_accurate(*(judge(policy, text, prompts, x, draws) for x in (ours, theirs)))
        assert precision == "bf16" or ours.ids == theirs.ids
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.9)
    assert 1 < len(tapes) <= 4


def test_in_bf16_the_model_keeps_its_own_weights(text, steps):
    model = tiny_model(text, initializer_range=0.4)
    answer(Policy(model, text.vocab, Hardware(precision="bf16")), text, PADDED, range(26))
    assert steps
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert model.lm_head.weight is model.transformer.wte.weight


def test_steps_follow_the_weights(text, steps):
    """What is recorded holds for the next batch, after an update."""
    for precision in ("fp32", "bf16"):
        model = tiny_model(text, initializer_range=0.4)
        policy = Policy(model, text.vocab, Hardware(precision=precision))
        before = answer(policy, text, PADDED, range(26))
        held = policy.steps.kept[-1]
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.3)
        after = answer(policy, text, PADDED, range(26))
        assert policy.steps.kept[-1] is held
        assert after.ids != before.ids
        fresh = Policy(model, text.vocab, Hardware(precision=precision))
        assert answer(fresh, text, PADDED, range(26)).ids == after.ids


def test_a_smaller_batch_uses_the_steps_of_a_larger_one(text, steps):
    policy = Policy(tiny_model(text, initializer_range=0.4), text.vocab, Hardware())
    whole = answer(policy, text, EVEN, range(26))
    held = policy.steps.kept[-1]
    few = answer(policy, text, EVEN[:5], range(5))
    assert policy.steps.kept[-1] is held
    assert few.ids == whole.ids[:5]
    answer(policy, text, PADDED, range(26))
    assert policy.steps.kept[-1] is not held  # a mask is part of what is recorded
    held = policy.steps.kept[-1]
    assert answer(policy, text, EVEN, range(26)).ids == whole.ids
    assert policy.steps.kept[-1] is held


def test_answers_do_not_depend_on_the_batches_before(text, steps):
    """To the bit: the shapes of a batch are its own, after a larger and a longer one too."""
    model = tiny_model(text, initializer_range=0.4, n_positions=128)
    long = [[i % 8] * 70 + [8] for i in range(40)]
    policy = Policy(model, text.vocab, Hardware())
    for before in (PADDED, long, EVEN[:20], long[:9]):
        answer(policy, text, before, range(len(before)))
    assert len(policy.steps.kept) == 2
    steps.clear()
    later = answer(policy, text, EVEN[:11], range(11))
    assert max(steps) == 16
    alone = answer(Policy(model, text.vocab, Hardware()), text, EVEN[:11], range(11))
    assert later.ids == alone.ids
    assert torch.equal(later.logprobs, alone.logprobs)


def test_where_a_smaller_size_cannot_be_recorded_the_larger_goes_on(text, steps, monkeypatch):
    model = tiny_model(text, initializer_range=0.4)
    want = answer(Policy(model, text.vocab, Hardware()), text, PADDED, range(26))
    real = recording.capture

    def capture(step, aside, pool):
        if step.args[1] < 32:
            aside()
            raise RuntimeError("out of memory")
        return real(step, aside, pool)

    monkeypatch.setattr(recording, "capture", capture)
    steps.clear()
    with pytest.warns(RuntimeWarning, match="for 16 sequences, so those that ended stay"):
        got = answer(Policy(model, text.vocab, Hardware()), text, PADDED, range(26))
    assert got.ids == want.ids
    assert set(steps) == {32}


def test_nothing_is_drawn_after_the_last_end_but_what_is_under_way(text, steps):
    policy = Policy(tiny_model(text, initializer_range=0.4), text.vocab, Hardware())
    out = answer(policy, text, EVEN[:4], range(4), most=60)
    assert all(out.finished)
    assert sum(steps.values()) + 1 <= max(len(ids) for ids in out.ids) + 4


def test_a_model_whose_steps_cannot_be_recorded_is_sampled_without_and_said_once(text, steps):
    model = tiny_model(text, initializer_range=0.4)
    policy = Policy(model, text.vocab, Hardware())
    want = answer(policy, text, EVEN, range(26))
    policy = Policy(model, text.vocab, Hardware())

    def fail(*_):
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording, "capture", fail)
        with pytest.warns(RuntimeWarning, match=r"GPT2LMHeadModel.*\(RuntimeError: operation not"):
            got = answer(policy, text, EVEN, range(26))
    assert got.ids == want.ids
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert answer(policy, text, EVEN, range(26)).ids == want.ids


def test_layers_of_a_kind_of_their_own_are_named(text, steps, monkeypatch):
    monkeypatch.setattr(rollout, "make_cache", lambda model, room, entire: make_plain(model))
    policy = Policy(tiny_model(text, initializer_range=0.4), text.vocab, Hardware())
    with pytest.warns(RuntimeWarning, match="layers of a kind of their own, DynamicLayer"):
        answer(policy, text, EVEN, range(26))


def make_plain(model):
    from transformers.cache_utils import DynamicCache

    return DynamicCache(config=model.config)


def test_graphs_are_for_a_gpu_and_can_be_turned_off(text):
    model = tiny_model(text)
    assert not graphs.wanted(Policy(model, text.vocab, Hardware()), 64)
    there = Policy(model, text.vocab, Hardware())
    off = Policy(model, text.vocab, Hardware(cuda_graphs="off"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Policy, "device", torch.device("cuda", 0))
        assert graphs.wanted(there, 64)
        assert not graphs.wanted(there, 2)
        assert not graphs.wanted(off, 64)


def test_off_is_a_word_and_part_of_what_a_gpu_computes(root):
    spec = load_spec(root / "specs" / "quickstart.yaml", ["hardware.cuda_graphs=off"]).spec
    assert spec.hardware.cuda_graphs == "off"
    machine = Machine(device="cuda", why="", threads=1, gpu="X")
    assert identity._hardware(spec, machine)["cuda_graphs"] == "off"
    on_cpu = Machine(device="cpu", why="", threads=1)
    assert "cuda_graphs" not in identity._hardware(spec, on_cpu)


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (1, [8]),
        (8, [8]),
        (9, [16, 8]),
        (30, [32, 16, 8]),
        (72, [72, 32, 16, 8]),
        (100, [104, 64, 32, 16, 8]),
        (512, [512, 256, 128, 64, 32, 16, 8]),
    ],
)
def test_sizes_are_a_function_of_the_batch_alone(count, sizes):
    assert sizes_of(count) == sizes


def test_a_fixed_layer_holds_what_a_growing_one_holds(text):
    model = tiny_model(text)
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    grown = make_cache(model, 16)
    model(ids, past_key_values=grown, use_cache=True)
    place = torch.tensor([3])
    held = [tuple(x.nan_to_num(0.0, 0.0, 0.0) for x in layer.held) for layer in grown.layers]
    for keys, values in held:
        keys[:, :, 3:] = values[:, :, 3:] = 0.0
    fixed = make_fixed_cache(model, [(k.clone(), v.clone()) for k, v in held], place)
    assert all(type(layer) is FixedLayer for layer in fixed.layers)
    for step in range(3):
        token = ids[:, step : step + 1]
        want = model(token, past_key_values=grown, use_cache=True).logits
        positions = place.expand(2, 1)
        got = model(token, past_key_values=fixed, use_cache=True, position_ids=positions).logits
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
        place.add_(1)
