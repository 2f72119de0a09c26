"""The inputs at the ends of their allocations, without compute-sanitizer: the script itself."""

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


def test_every_op_has_a_cuda_column():
    """Without one a tensor labelled as CUDA's would quietly be computed by the CPU column."""
    assert [name for name, kind in registry.OPS.items() if kind == "native-cpu"] == []
