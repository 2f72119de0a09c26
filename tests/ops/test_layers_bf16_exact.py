"""Products in bfloat16 to the bit: on whole numbers they are those of float32, in both passes.

Hidden states are 1 and -1, which without an eps are their own norm; biases lift what the activation
takes to where it is the identity; attention sees one position, or weighs two alike.
"""

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.reference.feed_forward import feed_forward as feed_reference
from rlhf_kernels.reference.self_attention import self_attention as attend_reference
from tests.ops.helpers import both_passes
from tests.ops.rounded import isa, make_whole
from tests.ops.sublayer import turned

__all__ = ["isa"]

#: Rows below, at and past tiles of 6, 16 and 32 rows, and pieces of up to 128.
ROWS = (1, 2, 6, 7, 15, 16, 17, 31, 32, 33, 48, 65, 97, 127, 128, 129, 190, 261)


def assert_whole(call, reference, inputs, upstream):
    """The bits are those of float32, and the truth itself where it is whole."""
    want = both_passes(reference, [x.double() for x in inputs], upstream.double())
    near = both_passes(call, inputs, upstream)
    for how in (list, turned):
        got = both_passes(lambda *leaves: call(*leaves, bf16=True), how(inputs), upstream)
        for place, (ours, theirs, truth) in enumerate(zip(got, near, want, strict=True)):
            assert torch.equal(ours, theirs), f"{how.__name__}: number {place} is not float32's"
            if place != 1:  # the hidden states' gradient, which has means
                assert torch.equal(ours.double(), truth.round()), f"number {place} is not the truth"


def check_feed_forward(count, width, inner, rows=None):
    sizes = [(width, inner), (inner, width)]
    inputs, upstream = make_whole((count, width), sizes, seed=count, shift=128.0)
    settings = {"eps": 0.0, "rows": rows}

    def call(*leaves, **others):
        return rk.feed_forward(*leaves, **settings, **others)

    assert_whole(call, lambda *leaves: feed_reference(*leaves, **settings), inputs, upstream)


@pytest.mark.parametrize("count", ROWS)
def test_a_feed_forward_of_whole_numbers_is_exact_for_any_rows(isa, count):
    check_feed_forward(count, 48, 80)


@pytest.mark.parametrize("width", [16, 32, 48, 64, 96, 112, 128, 384])
def test_a_feed_forward_of_whole_numbers_is_exact_for_any_columns(isa, width):
    for inner in (16, 48, 64, 80, 128, 400):
        check_feed_forward(37, width, inner)


@pytest.mark.parametrize("count", [1, 5, 16, 47, 140])
def test_a_feed_forward_of_chosen_whole_rows_is_exact(isa, count):
    rows = torch.randperm(150, generator=torch.Generator().manual_seed(count))[:count]
    check_feed_forward(150, 64, 112, rows)


@pytest.mark.parametrize(
    ("batch", "width", "heads"),
    [(1, 16, 1), (3, 48, 4), (8, 96, 2), (9, 64, 1), (33, 128, 4), (130, 80, 5), (17, 384, 6)],
)
def test_a_self_attention_of_whole_numbers_is_exact(isa, batch, width, heads):
    settings = {"heads": heads, "scale": 0.0, "eps": 0.0}

    def call(*leaves, **others):
        return rk.self_attention(*leaves, **settings, **others)

    for length in (1, 2):
        inputs, upstream = make_whole(
            (batch, length, width), [(width, 3 * width), (width, width)], seed=batch
        )
        assert_whole(call, lambda *leaves: attend_reference(*leaves, **settings), inputs, upstream)
