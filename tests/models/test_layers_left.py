"""What the kernels of GPT-2's layers leave to torch: whatever they would compute otherwise."""

import pytest
import torch
from transformers import DynamicCache

from tests.models.fused import (
    HALVES,
    IDS,
    close,
    either,
    lowered,
    make,
    passes,
    same_passes,
    taken,
)
from toolkit.models.load import set_residual_dropout

__all__ = ["either", "taken"]

pytestmark = pytest.mark.usefixtures("either")


def test_a_mask_leaves_attention_to_torch(taken):
    mask = torch.ones_like(IDS)
    mask[1, :4] = 0
    same_passes(make(), make(fused=False), attention_mask=mask)
    assert taken == ["feed_forward"] * 2


def test_a_cache_leaves_attention_to_torch_and_in_bf16_all(taken):
    """Tokens share torch's casts of the weights."""
    ours, plain = make(), make(fused=False)
    found = []
    for model in (ours, plain):
        cache = DynamicCache(config=model.config)
        with torch.no_grad():
            parts = [model(part, past_key_values=cache).logits for part in IDS.split([6, 1, 4], 1)]
        found.append(torch.cat(parts, 1))
    close(*found)
    assert taken == ([] if lowered() else ["feed_forward"] * 6)


def test_dropout_that_acts_leaves_both_halves_to_torch(taken):
    model = make()
    set_residual_dropout(model, 0.5)
    passes(model)
    assert taken == HALVES * 2
    taken.clear()
    one, other = (passes(model.train())[0] for _ in range(2))
    assert taken == []
    assert not torch.equal(one, other)


def test_another_precision_of_the_weights_leaves_both_halves_to_torch(taken):
    passes(make().bfloat16())
    assert taken == []


ATTENTION = ["ln_1", "attn", "attn.c_attn", "attn.c_proj", "attn.resid_dropout"]
FEEDING = ["ln_2", "mlp", "mlp.c_fc", "mlp.act", "mlp.c_proj", "mlp.dropout"]


@pytest.mark.parametrize("place", ATTENTION)
def test_attention_that_something_is_hooked_to_is_torchs(taken, place):
    model, seen = make(), []
    module = model.transformer.h[0].get_submodule(place)
    module.register_forward_hook(lambda _, given, out: seen.append(place))
    passes(model)
    assert seen == [place]
    assert taken == ["feed_forward", *HALVES]


@pytest.mark.parametrize("place", FEEDING)
def test_a_feed_forward_that_something_is_hooked_to_is_torchs(taken, place):
    model, seen = make(), []
    module = model.transformer.h[0].get_submodule(place)
    module.register_full_backward_hook(lambda *_: seen.append(place))
    passes(model)
    assert seen == [place]
    assert taken == ["self_attention", *HALVES]


def test_hooks_of_all_modules_are_called(taken):
    seen = []
    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda module, given, out: seen.append(type(module).__name__)
    )
    try:
        passes(make())
    finally:
        handle.remove()
    assert seen.count("GPT2MLP") == 2
    assert taken == []


@pytest.mark.parametrize("place", [*ATTENTION, "attn.attn_dropout", *FEEDING])
def test_a_part_of_another_class_or_with_a_forward_of_its_own_is_called(taken, place):
    """As adapters and offloading put in: what is called decides, not the weights it has."""
    plain, half = make(), HALVES[place in FEEDING]
    for change in ("class", "forward"):
        model = make()
        part = model.transformer.h[0].get_submodule(place)
        if change == "class":
            part.__class__ = type("Mine", (type(part),), {})
        else:
            part.forward = part.forward
        taken.clear()
        close(passes(model)[0], passes(plain)[0])
        assert taken.count(half) == 3
        assert len(taken) == 7


@pytest.mark.parametrize("place", ["attn.c_proj", "mlp.c_fc"])
def test_a_linear_layer_in_place_of_a_part_keeps_its_way_round(taken, place):
    found = []
    for fused in (True, False):
        model = make(fused, n_inner=48)
        part = model.transformer.h[0].get_submodule(place)
        linear = torch.nn.Linear(48, 48)
        linear.weight, linear.bias = part.weight, part.bias
        model.transformer.h[0].set_submodule(place, linear)
        found.append(passes(model)[0])
    assert len(taken) == 3
    close(*found)


@pytest.mark.parametrize("place", ["ln_1", "ln_2"])
def test_a_norm_without_a_bias_is_torchs(taken, place):
    model = make()
    setattr(model.transformer.h[0], place, torch.nn.LayerNorm(48, bias=False))
    passes(model)
    assert len(taken) == 3


@pytest.mark.parametrize("place", ["attn", "attn.resid_dropout", "mlp.dropout"])
def test_dropout_of_one_part_alone_acts(taken, place):
    """Sampling with dropout: the model is in evaluation, this part is not."""
    model = make()
    set_residual_dropout(model, 0.5)
    model.transformer.h[0].attn.attn_dropout.p = 0.5
    model.transformer.h[0].get_submodule(place).training = True
    one, other = (passes(model)[0] for _ in range(2))
    assert not torch.equal(one, other)
    assert len(taken) == 2 * 3


def test_what_attention_is_asked_for_beside_stays(taken):
    model = make()
    passes(model, is_causal=True)
    assert taken == HALVES * 2
    taken.clear()
    passes(model, position_bias=torch.zeros(1, 3, 11, 11))
    assert taken == ["feed_forward"] * 2
    taken.clear()
    model.transformer.h[0].attn.is_causal = False
    passes(model)
    assert taken == ["feed_forward", *HALVES]


def test_weights_elsewhere_are_an_error(taken):
    model = make()
    for name in ("c_fc", "c_proj"):
        getattr(model.transformer.h[0].mlp, name).to("meta")
    with pytest.raises(RuntimeError, match="on device meta"):
        model.base_model(IDS, use_cache=False)
    assert taken == ["self_attention"]


def test_another_way_to_attend_is_torchs(taken):
    model = make()
    model.set_attn_implementation("eager")
    passes(model)
    assert taken == ["feed_forward"] * 2
