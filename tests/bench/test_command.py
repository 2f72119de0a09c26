"""The command line: every op has its benchmark, bad arguments name the fix, --json is JSON."""

import importlib
import json

import pytest
import torch

from rlhf_kernels import _registry
from rlhf_kernels.bench import __main__ as command
from rlhf_kernels.bench import inputs, linear, results
from rlhf_kernels.bench.__main__ import find_ops, main
from rlhf_kernels.bench.cases import OURS, Settings
from rlhf_kernels.bench.harness import compare, measure
from rlhf_kernels.bench.providers import add_up_truth
from rlhf_kernels.bench.results import read_records

SMALL = {"ranking_loss": (3, 5), "sample": (6, 65)}  # sample keeps 50 of them
#: Larger than fp32 rounding of values up to 20 (two parts in ten million), smaller than any fault.
TOLERANCE = 2e-5


def make_flat_logits(rows, vocabulary, dtype, seed=0, device="cpu"):
    return inputs.make_normal(rows, vocabulary, dtype=dtype, seed=seed, device=device)


@pytest.mark.parametrize("op", sorted(_registry.OPS))
def test_ours_and_the_baselines_compute_the_same_as_the_reference(op, monkeypatch):
    # A baseline that computes something else would make its time meaningless. Without peaks, at
    # which float32 baselines lose the digits of 1 - p: that is their error, not their formula.
    monkeypatch.setattr(inputs, "make_logits", make_flat_logits)
    monkeypatch.setattr(linear, "PEAK", 0.0)
    settings = Settings(shape=SMALL.get(op, (6, 33)), dtypes=(torch.float32,))
    module = importlib.import_module(f"rlhf_kernels.bench.bench_{op}")
    cases = list(module.make_cases(settings))
    assert cases
    for case in cases:
        assert case.op == op
        assert case.bytes_read > 0
        truth = case.truth()
        eager = [p for p in case.providers if p.run is not None and not p.compiled]
        assert eager[0].name == OURS
        assert len(eager) > 1
        for provider in eager:
            for _ in range(2):  # the second run shows whether the inputs were restored
                if provider.prepare:
                    provider.prepare()
                error, grad_error = compare(provider.run(), truth)
                assert error is not None, provider.name
                assert error < TOLERANCE, provider.name
                assert grad_error is None or grad_error < TOLERANCE, provider.name


def test_json_on_standard_output_is_one_document(capsys):
    assert main(["token_kl", "--quick", "--json", "-", "--shape", "4x8", "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert {row["op"] for row in document["rows"]} == {"token_kl"}
    assert {row["shape"] for row in document["rows"]} == {"4x8"}
    assert document["machine"]["threads"] == torch.get_num_threads()
    assert "GOALS" in captured.err


def test_csv_plot_and_json_files_are_written(tmp_path, capsys):
    files = [tmp_path / name for name in ("rows.json", "rows.csv", "plot.svg")]
    options = [
        str(word)
        for pair in zip(["--json", "--csv", "--plot"], files, strict=True)
        for word in pair
    ]
    assert main(["whiten", "--quick", "--shape", "4x8", "--device", "cpu", *options]) == 0
    assert all(path.stat().st_size for path in files)
    assert "whiten forward, 4x8 float32" in capsys.readouterr().out


def test_append_adds_the_rows_to_the_kept_file_case_by_case(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").mkdir()
    place = tmp_path / "rlhf_kernels/bench/results.py"
    monkeypatch.setattr(results, "__file__", str(place))
    seen = []

    def interrupted(case, settings, machine):
        if seen:
            raise RuntimeError("the device fell off the bus")
        seen.append(case)
        return measure(case, settings, machine)

    monkeypatch.setattr(command, "measure", interrupted)
    with pytest.raises(RuntimeError, match="fell off"):
        main(["token_kl", "--quick", "--append", "--shape", "4x8", "--device", "cpu"])
    records = read_records(tmp_path / results.RESULTS)
    assert {row.op for row, _ in records} == {"token_kl"}
    assert {row.dtype for row, _ in records} == {"float32"}
    assert {machine.commit for _, machine in records} != {""}
    assert "device cpu, as asked" in capsys.readouterr().out


def test_append_without_a_checkout_names_the_other_way(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "__file__", str(tmp_path / "rlhf_kernels/bench/results.py"))
    with pytest.raises(SystemExit):
        main(["token_kl", "--append"])
    assert "name a file with --csv" in capsys.readouterr().err


def test_rows_of_a_gpu_are_made_from_inputs_of_the_same_numbers():
    few = inputs.make_logits(512, 9, torch.float32)
    many = inputs.make_logits(1300, 9, torch.float32)
    assert torch.equal(many[:512], few)
    assert torch.equal(many[1024:], few[:276])
    near = inputs.make_near(many)
    assert torch.equal(near[:512], inputs.make_near(few))
    assert not torch.equal(near[:512], many[:512])
    assert torch.equal(near[1024:], near[:276])


def test_truth_in_pieces_is_the_truth_of_the_whole():
    leaf = torch.randn(1300, 5, dtype=torch.float64)
    weights = torch.rand(1300, dtype=torch.float64)

    def part(piece, rows):
        return {"loss": (piece.exp().sum(1) * weights[rows]).sum()}

    found = add_up_truth(leaf, part)
    whole = leaf.clone().requires_grad_()
    loss = (whole.exp().sum(1) * weights).sum()
    torch.testing.assert_close(found["loss"], loss.detach())
    torch.testing.assert_close(found["grad"], torch.autograd.grad(loss, whole)[0][:512])


def test_ops_with_goals_come_first():
    assert find_ops()[0] == "gather_logprobs"
    assert sorted(find_ops()) == sorted(_registry.OPS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gather_logprob"], "did you mean gather_logprobs?"),
        (["--dtype", "int8"], "'int8' is none of"),
        (["--clock", "cpu", "--threads", "2"], "leave out --threads"),
        (["--device", "cuda"], "--device cpu measures the CPU kernels"),
        (["--clock", "cpu", "--device", "cuda"], "leave out --device cuda"),
        (["--shape", "12"], "'12' is not of the form 512x50257"),
        (["--shape", "0x5"], "'0x5' is not of the form"),
    ],
)
def test_bad_arguments_name_the_fix(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err
