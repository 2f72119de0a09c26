"""The inputs at the ends of their allocations, without compute-sanitizer: the script itself."""

import pytest
import torch

import rlhf_kernels._registry as registry
from tests.cuda import guarded


def test_every_case_runs_at_the_edges_of_its_memory(column):
    assert guarded.run_all(column, quick=True) > 30


def test_a_tensor_at_the_edge_fills_its_memory_to_the_end():
    placed = guarded.place_at_edges((torch.ones(3, 5), {"mask": torch.ones(7) > 0}, 2.0), 2)
    assert placed[0].storage_offset() == 2
    assert placed[0].untyped_storage().nbytes() == 4 * (2 + 15)
    assert placed[1]["mask"].untyped_storage().nbytes() == 3 + 7
    assert torch.equal(placed[0], torch.ones(3, 5))


def test_an_op_without_a_cuda_column_refuses_what_lies_there(column):
    """Else a tensor labelled as CUDA's would quietly be computed by the CPU column."""
    without = sorted(name for name, kind in registry.OPS.items() if kind == "native-cpu")
    assert without == [
        "causal_attention",
        "decoder_layers",
        "feed_forward",
        "gelu_tanh",
        "self_attention",
    ]
    x, states = column.place(torch.ones(3)), column.place(torch.ones(1, 1, 3, 2))
    with column.on(), pytest.raises(ValueError, match="'x' must be on the CPU"):
        registry._C.gelu_tanh(x, torch.empty_like(x))
    x16, w16 = column.place(torch.ones(2, 16)), [column.place(torch.ones(16))] * 6
    with column.on(), pytest.raises(ValueError, match="'hidden' must be on the CPU"):
        registry._C.feed_forward(x16, None, *w16, 1e-5, False, torch.empty_like(x16), x16)
    with column.on(), pytest.raises(ValueError, match="'hidden' must be on the CPU"):
        registry._C.self_attention(x16[None], *w16, 1, 1.0, 1e-5, False, x16, x16, x16)
    numbers = (0, 1, 1.0, 1e-5, False)
    with column.on(), pytest.raises(ValueError, match="'hidden' must be on the CPU"):
        registry._C.decoder_layers(x16[None], 2 * w16, [], [], None, None, *numbers, x16)
    with column.on(), pytest.raises(ValueError, match="'query' must be on the CPU"):
        registry._C.causal_attention(states, states, states, 1.0, torch.empty_like(states))
