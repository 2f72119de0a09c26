"""A GPT-2 read in one go: the same numbers as layer by layer, and what is left to torch."""

import copy
import pickle

import pytest
import torch
from transformers import DynamicCache
from transformers.models.gpt2.modeling_gpt2 import GPT2Model

from tests.models.fused import (
    HALVES,
    IDS,
    either,
    lowered,
    make,
    passes,
    same_passes,
    take_from,
    taken,
)
from tests.models.trunks import ALL, close, copied, fused, hidden_of, read
from toolkit.models import layers, trunk, whole_pass
from toolkit.models.cache import make_cache
from toolkit.models.last_layer import find_last_layer, read_trunk
from toolkit.models.trunk import FusedTrunk, lay_out

__all__ = ["either", "read", "taken"]

pytestmark = pytest.mark.usefixtures("either")


def test_a_pass_without_a_gradient_is_one_kernel(read):
    ours, plain = fused(), make(fused=False)
    close(hidden_of(ours), hidden_of(plain))
    assert read == ALL
    close(hidden_of(ours, attention_mask=torch.ones_like(IDS)), hidden_of(plain))
    positions = torch.arange(3, 14).unsqueeze(0)
    close(hidden_of(ours, position_ids=positions), hidden_of(plain, position_ids=positions))
    assert read == ALL * 3


def test_a_pass_with_a_gradient_is_one_call(read):
    same_passes(fused(), make(fused=False))
    assert read == ALL


def test_it_gives_the_bits_of_the_halves_with_a_gradient_and_without(read):
    model = fused()
    ours, halves = passes(model), passes(make())
    assert read == [*ALL, *HALVES * 2]
    assert torch.equal(ours[0], halves[0])
    assert all(map(torch.equal, ours[1], halves[1]))
    assert torch.equal(ours[0], hidden_of(model))


def test_few_rows_of_a_large_layer_are_torchs_with_a_gradient(read, monkeypatch):
    if lowered():
        pytest.skip("in bf16 rows do not count")
    model, size = fused(n_inner=192), 48 * 192
    for rows, expected in ((((size, 44),), ALL), (((size, 45),), [])):
        take_from(monkeypatch, rows)
        read.clear()
        passes(model)
        assert read == expected
    last = find_last_layer(model)
    take_from(monkeypatch, ((size, 21),))
    for count, expected in ((21, ALL), (20, [*HALVES, "self_attention"])):
        read.clear()
        read_trunk(model, last, IDS, torch.arange(count))
        assert read == expected


def test_the_rows_that_are_read_are_fed(read):
    model = fused()
    last = find_last_layer(model)
    assert last is not None
    read.clear()
    rows, whole = torch.tensor([3, 10, 20, 43]), hidden_of(model).flatten(0, 1)
    with torch.no_grad():
        found = read_trunk(model, last, IDS, rows).flatten(0, 1)
    assert read == ALL * 2
    assert torch.equal(found[rows], whole[rows])
    others = [i for i in range(44) if i not in rows]
    assert not torch.equal(found[others], whole[others])
    with torch.no_grad():
        close(read_trunk(model, last, IDS, rows.flip(0)).flatten(0, 1)[rows], whole[rows])
    assert read == [*ALL * 2, *HALVES * 2]  # in no order


def tokens(model, ids, parts, mask=None, kind=None, keep=None):
    """Logits of `ids` read in parts with a cache; `keep` takes sequences before the last part."""
    cache = make_cache(model, ids.shape[1]) if kind is None else kind(config=model.config)
    found, start = [], 0
    with torch.inference_mode():
        for n, count in enumerate(parts):
            if keep is not None and n == len(parts) - 1:
                cache.reorder_cache(keep)
                ids, mask = ids[keep], None if mask is None else mask[keep]
            padding = {}
            if mask is not None:
                seen = mask[:, : start + count]
                positions = (mask.cumsum(1) - 1).clamp(min=0)[:, start : start + count]
                padding = {"attention_mask": seen, "position_ids": positions}
            part = ids[:, start : start + count]
            found.append(model(part, past_key_values=cache, use_cache=True, **padding).logits)
            start += count
    return found


@pytest.mark.parametrize("held", [False, True])
def test_token_by_token_with_a_cache(read, held):
    ours, plain = fused(), make(fused=False)
    whole = plain(IDS).logits
    with copied(ours) if held else torch.no_grad():
        found = tokens(ours, IDS, [6, 1, 1, 1, 1, 1])
    assert read == ALL * 6
    close(torch.cat(found, 1), whole)


def test_padding_at_the_left_is_not_seen(read):
    ours, plain = fused(), make(fused=False)
    mask = torch.ones_like(IDS)
    mask[1, :3] = 0
    mask[3, :5] = 0
    ids = IDS.masked_fill(mask == 0, 7)
    found = torch.cat(tokens(ours, ids, [7, 1, 1, 1, 1], mask), 1)
    assert read == ALL * 5
    wanted = torch.cat(tokens(plain, ids, [7, 1, 1, 1, 1], mask), 1)
    for row, start in enumerate([0, 3, 0, 5]):
        close(found[row, start:], wanted[row, start:])
        close(found[row, start:], plain(IDS[row : row + 1, start:]).logits[0])


def test_sequences_that_stay_keep_their_cache(read):
    ours, plain = fused(), make(fused=False)
    stay = torch.tensor([3, 1])
    found, wanted = (tokens(m, IDS, [9, 1, 1], keep=stay)[-1] for m in (ours, plain))
    assert read == ALL * 3
    close(found, wanted)


def test_what_a_cache_of_another_kind_is_asked_for_is_torchs(read):
    ours, plain = fused(), make(fused=False)
    for kind, parts in ((DynamicCache, [6, 1, 4]), (None, [6, 2, 3])):
        read.clear()
        found = torch.cat(tokens(ours, IDS, parts, kind=kind), 1)
        close(found, plain(IDS).logits)
        assert read.count("decoder_layers") == (kind is None)


def test_copies_are_read_while_they_are_held_and_no_longer(read):
    model = fused()
    before = hidden_of(model)
    with copied(model):
        assert torch.equal(hidden_of(model), before)
        for weight in model.transformer.h[0].parameters():
            if weight.ndim == 2:
                weight.data.mul_(2.0)
        assert torch.equal(hidden_of(model), before)
    assert model.transformer.copies is None
    assert not torch.equal(hidden_of(model), before)
    with pytest.raises(KeyError), copied(model):
        raise KeyError
    assert model.transformer.copies is None


def test_a_gradient_is_of_the_weights_while_copies_are_held(read):
    model = fused()
    with copied(model):
        found = passes(model)
    assert read == HALVES * 2
    assert all(map(torch.equal, found[1], passes(model)[1]))


def test_copies_within_copies_and_after_an_error(monkeypatch):
    model = fused()
    with lay_out(model, bf16=True):
        outer = model.transformer.copies
        with lay_out(model):
            assert not model.transformer.copies.bf16
        assert model.transformer.copies is outer
    both, made = torch.nn.ModuleList([fused(), fused()]), []

    def fail_at_the_second(weights, bf16):
        made.append(weights)
        if len(made) == 2:
            raise MemoryError
        return weights

    monkeypatch.setattr(trunk.rk, "lay_out_layers", fail_at_the_second)
    with pytest.raises(MemoryError), lay_out(both):
        pass
    assert all(each.transformer.copies is None for each in both)


def test_what_is_read_at_once_depends_on_weights_rows_and_threads(read, monkeypatch):
    model = fused()
    numbers = sum(x.numel() for layer in model.transformer.h for x in layer.parameters())

    def kernels(threads=2, **limits):
        monkeypatch.setattr(whole_pass.torch, "get_num_threads", lambda: threads)
        for name, value in limits.items():
            monkeypatch.setattr(whole_pass, name, value)
        read.clear()
        hidden_of(model)
        return list(read)

    assert kernels(_SMALL=numbers, _MOST=0, _MANY_ROWS=44) == ALL
    assert kernels(_SMALL=numbers - 1) == HALVES * 2
    assert kernels(_MOST=numbers) == ALL
    assert kernels(_MANY_ROWS=45) == HALVES * 2
    assert kernels(_MOST=numbers - 1, _MANY_ROWS=44) == HALVES * 2
    with copied(model):
        assert kernels() == ALL
        assert kernels(threads=3, _ROWS_OF_A_THREAD=15) == HALVES * 2  # by layers.py
        assert kernels(threads=3, _ROWS_OF_A_THREAD=14) == ALL
    assert kernels(_SMALL=numbers) == ALL
    assert kernels(threads=5) == ALL  # 4 sequences
    assert kernels(threads=5, _MANY_ROWS=43) == ALL
    assert kernels(threads=7, _MANY_ROWS=43) == HALVES * 2
    assert kernels(threads=7, _MANY_ROWS=44) == ALL


def test_without_a_vector_unit_nothing_is_replaced(monkeypatch):
    monkeypatch.setattr(layers.rk, "current_isa", lambda: "baseline")
    assert type(fused().transformer) is GPT2Model


def test_copies_keep_the_trunk():
    model = fused()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(other.transformer) is FusedTrunk
        assert torch.equal(hidden_of(other), hidden_of(model))
