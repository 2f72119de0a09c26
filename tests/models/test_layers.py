"""GPT-2's layers by two kernels: the same numbers, in every model that a stage loads."""

import copy
import pickle

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from tests.models.fused import (
    HALVES,
    IDS,
    close,
    either,
    make,
    passes,
    same_passes,
    take_from,
    taken,
)
from tests.tiny import tiny_model, tiny_text
from toolkit.models import layers
from toolkit.models.last_layer import find_last_layer, read_trunk
from toolkit.models.layers import FusedBlock, fuse_layers
from toolkit.models.load import load_policy, load_scalar, make_scalar
from toolkit.models.save import save_model
from toolkit.models.trunk import FusedTrunk
from toolkit.training.random import Stream

__all__ = ["either", "taken"]

IN_BOTH = pytest.mark.usefixtures("either")


@IN_BOTH
@pytest.mark.parametrize("width", [48, 128])
def test_both_passes_are_those_of_the_layers_written_out(taken, width):
    changes = {"n_embd": width, "n_head": 4 if width == 128 else 3}
    same_passes(make(**changes), make(fused=False, **changes))
    assert taken == HALVES * 2


def test_another_layer_would_be_seen():
    """One whose activation is gelu by the error function, within 5e-4 everywhere."""
    with pytest.raises(AssertionError):
        same_passes(make(), make(fused=False, activation_function="gelu"))


@IN_BOTH
@pytest.mark.parametrize(
    "changes",
    [{"scale_attn_weights": False}, {"scale_attn_by_inverse_layer_idx": True},
     {"layer_norm_epsilon": 0.1}, {"n_inner": 80}],
)  # fmt: skip
def test_a_config_of_another_kind_keeps_its_meaning(taken, changes):
    same_passes(make(**changes), make(fused=False, **changes))
    assert taken == HALVES * 2
    with pytest.raises((AssertionError, RuntimeError)):
        same_passes(make(**changes), make(fused=False))


@IN_BOTH
def test_the_last_layer_feeds_what_is_read(taken, monkeypatch):
    model = make()
    last = find_last_layer(model)
    assert last is not None
    taken.clear()
    rows, seen = torch.tensor([3, 10, 20, 43]), []
    kernel = layers.rk.feed_forward
    monkeypatch.setattr(
        layers.rk, "feed_forward",
        lambda *given, **more: seen.append(more["rows"]) or kernel(*given, **more),
    )  # fmt: skip
    hidden = read_trunk(model, last, IDS, rows).flatten(0, 1)
    assert taken == HALVES * 2
    assert seen[0] is None
    assert torch.equal(seen[1], rows)
    plain = make(fused=False).base_model(IDS)[0].flatten(0, 1)
    close(hidden[rows], plain[rows])


def test_few_rows_are_torchs_and_fewer_of_a_small_layer(taken, monkeypatch):
    model, size = make(n_inner=192), 48 * 192
    for rows, expected in (
        (((size, 44),), HALVES * 2),
        (((size, 45),), []),
        (((size - 1, 1),), ["self_attention"] * 2),
        (((size - 1, 45), (size, 44)), HALVES * 2),
    ):
        take_from(monkeypatch, rows)
        taken.clear()
        passes(model)
        assert taken == expected
    last = find_last_layer(model)
    taken.clear()
    read_trunk(model, last, IDS, torch.arange(20))
    assert taken == [*HALVES, "self_attention"]  # 44 rows are there, 20 would be fed


def test_without_a_vector_unit_nothing_is_replaced(monkeypatch):
    monkeypatch.setattr(layers.rk, "current_isa", lambda: "baseline")
    assert all(type(block) is GPT2Block for block in make().transformer.h)


def test_copies_and_files_keep_the_layers(tmp_path):
    model = make()
    names = set(make(fused=False).state_dict())
    assert set(model.state_dict()) == names
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(type(block) is FusedBlock for block in copied.transformer.h)
        assert torch.equal(copied(IDS).logits, model(IDS).logits)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(type(block) is GPT2Block for block in again.transformer.h)
    torch.testing.assert_close(again(IDS).logits, model(IDS).logits, rtol=1e-4, atol=1e-4)


def test_every_model_that_a_stage_loads_has_them(tmp_path):
    text = tiny_text()
    save_model(tiny_model(text), tmp_path / "base", text)
    scalar = make_scalar(tmp_path / "base", text, Stream(1, "head"))
    save_model(scalar, tmp_path / "scalar", text)
    loaded = [load_policy(tmp_path / "base", text), load_scalar(tmp_path / "scalar", text)]
    for model in (tiny_model(text), scalar, *loaded):
        assert [type(block) for block in model.transformer.h] == [FusedBlock] * 2
        assert type(model.transformer) is FusedTrunk


def test_other_architectures_stay(taken):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = AutoConfig.for_model("gpt_neox", intermediate_size=48, vocab_size=12, **sizes)
    model = AutoModelForCausalLM.from_config(config)
    fuse_layers(model)
    model(IDS)
    assert taken == []
