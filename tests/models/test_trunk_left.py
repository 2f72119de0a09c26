"""What reading a GPT-2 in one go leaves to torch: whatever it would compute otherwise."""

import pytest
import torch
from transformers import DynamicCache

from tests.models.fused import HALVES, IDS, either, lowered, make, passes, same_passes, taken
from tests.models.trunks import ALL, close, copied, fused, hidden_of, read
from toolkit.models.cache import make_cache
from toolkit.models.load import set_residual_dropout

__all__ = ["either", "read", "taken"]

pytestmark = pytest.mark.usefixtures("either")


@pytest.mark.parametrize(
    "given",
    [
        {"output_hidden_states": True},
        {"output_attentions": True},
        {"return_dict": False},
        {"use_cache": True},
        {"token_type_ids": IDS},
        {"attention_mask": torch.cat([torch.ones(4, 10), torch.zeros(4, 1)], 1).long()},
        {"attention_mask": torch.ones(4, 1, 11, 11).bool()},
        {"position_bias": torch.zeros(1, 3, 11, 11)},
        {"position_ids": torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5]])},
        {"is_causal": False},
    ],
)
def test_what_is_asked_for_beside_is_torchs(read, given):
    ours, plain = fused(), make(fused=False)
    with torch.no_grad():
        found, wanted = (m.base_model(IDS, **{"use_cache": False} | given) for m in (ours, plain))
    assert "decoder_layers" not in read
    assert type(found) is type(wanted)
    assert len(found) == len(wanted)
    close(found[0], wanted[0])


def test_several_sequences_in_a_row_are_torchs_for_a_gradient_too(read):
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5]])
    same_passes(fused(), make(fused=False), position_ids=positions)
    assert "decoder_layers" not in read


@pytest.mark.parametrize("name", ["is_causal", "return_dict"])
def test_what_the_config_asks_for_is_torchs(read, name):
    ours, plain = fused(), make(fused=False)
    for model in (ours, plain):
        setattr(model.config, name, False)
    close(hidden_of(ours), hidden_of(plain))
    assert "decoder_layers" not in read


@pytest.mark.parametrize("crossed", [False, True])
def test_a_cache_that_makes_its_layers_itself_is_filled(read, crossed):
    """DynamicCache() has none at first; an EncoderDecoderCache has no list of them at all."""
    found = []
    for model in (
        fused(add_cross_attention=crossed),
        make(fused=False, add_cross_attention=crossed),
    ):
        cache = None if crossed else DynamicCache()
        with torch.no_grad():
            out = model.base_model(IDS[:, :10], past_key_values=cache, use_cache=True)
            assert out.past_key_values.get_seq_length() == 10
            given = {"past_key_values": out.past_key_values, "use_cache": True}
            found.append(model.base_model(IDS[:, 10:], **given)[0])
    close(*found)
    assert "decoder_layers" not in read


def test_arguments_by_their_places_and_another_default_device(read):
    ours, plain = fused(), make(fused=False)
    mask, positions = torch.ones_like(IDS), torch.arange(2, 13).unsqueeze(0)
    with torch.no_grad():
        found, wanted = (
            m.base_model(IDS, None, mask, None, positions, use_cache=False)[0]
            for m in (ours, plain)
        )
    close(found, wanted)
    with torch.device("meta"):
        close(hidden_of(ours), hidden_of(plain))
        cache = make_cache(ours, 11)
        with torch.no_grad():
            out = ours.base_model(IDS, past_key_values=cache, use_cache=True)[0]
    close(out, hidden_of(plain))
    assert read == ALL * 3


class Nothing(torch.nn.Module):
    def forward(self, *given, **settings):
        return given[0], None


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("place", ["ln_1", "ln_2", "attn", "mlp"])
def test_parts_that_are_something_else_are_called(read, block, place):
    found = []
    for model in (fused(), make(fused=False)):
        other = Nothing() if place == "attn" else torch.nn.Identity()
        setattr(model.transformer.h[block], place, other)
        with copied(model):
            found.append(hidden_of(model))
    close(*found)
    assert "decoder_layers" not in read


def test_an_embedding_without_a_weight_is_called(read):
    ours, plain = fused(), make(fused=False)
    for model in (ours, plain):
        model.transformer.wpe = torch.nn.Sequential(model.transformer.wpe)
    close(hidden_of(ours), hidden_of(plain))
    assert "decoder_layers" not in read


def test_it_is_compiled_as_layers(read):
    model = fused()
    compiled = torch.compile(model.transformer, fullgraph=True, backend="eager")
    with torch.no_grad():
        found = compiled(IDS, use_cache=False)[0]
    close(found, hidden_of(make(fused=False)))


def test_embeddings_in_place_of_tokens_are_torchs(read):
    ours, plain = fused(), make(fused=False)
    embedded = ours.transformer.wte(IDS).detach()
    found, wanted = (
        hidden_of(m, None, inputs_embeds=embedded) for m in (ours, plain)
    )  # fmt: skip
    assert "decoder_layers" not in read
    close(found, wanted)


PARTS = ["", "ln_1", "attn", "attn.c_proj", "attn.attn_dropout", "mlp", "mlp.act", "mlp.dropout"]


@pytest.mark.parametrize("place", PARTS)
def test_a_part_that_something_is_hooked_to_is_called(read, place):
    model, seen = fused(), []
    part = model.transformer.h[1].get_submodule(place)
    part.register_forward_hook(lambda *_: seen.append(place))
    close(hidden_of(model), hidden_of(make(fused=False)))
    assert seen == ([] if place == "attn.attn_dropout" else [place])
    assert "decoder_layers" not in read


@pytest.mark.parametrize("place", PARTS)
def test_a_part_of_another_class_is_called(read, place):
    model = fused()
    part = model.transformer.h[1].get_submodule(place)
    part.__class__ = type("Mine", (type(part),), {})
    close(hidden_of(model), hidden_of(make(fused=False)))
    assert "decoder_layers" not in read


@pytest.mark.parametrize(
    "changes",
    [{"scale_attn_by_inverse_layer_idx": True}, {"n_embd": 24}, {"n_inner": 40}],
)
def test_layers_that_the_kernel_does_not_take_are_torchs(read, changes):
    close(hidden_of(fused(**changes)), hidden_of(make(fused=False, **changes)))
    assert "decoder_layers" not in read


@pytest.mark.parametrize(
    "changes", [{"scale_attn_weights": False}, {"layer_norm_epsilon": 0.1}, {"n_inner": 80}]
)
def test_a_config_of_another_kind_keeps_its_meaning(read, changes):
    close(hidden_of(fused(**changes)), hidden_of(make(fused=False, **changes)))
    assert read == ALL


@pytest.mark.parametrize("norm", ["ln_1", "ln_2"])
def test_norms_that_differ_are_torchs(read, norm):
    ours, plain = fused(), make(fused=False)
    for model in (ours, plain):
        getattr(model.transformer.h[1], norm).eps = 0.3
    close(hidden_of(ours), hidden_of(plain))
    assert "decoder_layers" not in read


def test_dropout_that_acts_is_torchs(read):
    model = fused()
    set_residual_dropout(model, 0.5)
    hidden_of(model)
    assert read == ALL
    one, other = (hidden_of(model.train()) for _ in range(2))
    assert not torch.equal(one, other)
    assert read == ALL


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_in_other_precisions_are_torchs(read, dtype):
    model = fused().to(dtype)
    if dtype == torch.float64 and lowered():
        with pytest.raises(RuntimeError, match="same dtype"):  # autocast casts no float64
            hidden_of(model)
    else:
        hidden_of(model)
    assert "decoder_layers" not in read


def test_activations_that_are_computed_again_are_the_halves(read):
    model, grads = fused().train(), []
    for _ in range(2):
        grads.append(passes(model)[1])
        model.activation_checkpointing_enable({"use_reentrant": False})
    assert read == [*ALL, *HALVES * 4]
    assert all(map(torch.equal, *grads))


def test_another_way_to_attend_is_torchs(read):
    model = fused()
    model.set_attn_implementation("eager")
    close(hidden_of(model), hidden_of(make(fused=False)))
    assert "decoder_layers" not in read
