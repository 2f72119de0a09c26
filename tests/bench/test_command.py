"""The command line: every op has its benchmark, bad arguments name the fix, --json is JSON."""

import importlib
import json

import pytest
import torch

from rlhf_kernels import _registry
from rlhf_kernels.bench import inputs
from rlhf_kernels.bench.__main__ import find_ops, main
from rlhf_kernels.bench.cases import OURS, Settings
from rlhf_kernels.bench.harness import compare

SMALL = {"ranking_loss": (3, 5)}
#: Larger than fp32 rounding of values up to 20 (two parts in ten million), smaller than any fault.
TOLERANCE = 2e-5


def make_flat_logits(rows, vocabulary, dtype, seed=0):
    return inputs.make_normal(rows, vocabulary, dtype=dtype, seed=seed)


@pytest.mark.parametrize("op", sorted(_registry.OPS))
def test_ours_and_the_baselines_compute_the_same_as_the_reference(op, monkeypatch):
    # A baseline that computes something else would make its time meaningless. Without peaks, at
    # which float32 baselines lose the digits of 1 - p: that is their error, not their formula.
    monkeypatch.setattr(inputs, "make_logits", make_flat_logits)
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
    assert main(["token_kl", "--quick", "--json", "-", "--shape", "4x8"]) == 0
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
    assert main(["whiten", "--quick", "--shape", "4x8", *options]) == 0
    assert all(path.stat().st_size for path in files)
    assert "whiten forward, 4x8 float32" in capsys.readouterr().out


def test_ops_with_goals_come_first():
    assert find_ops()[0] == "gather_logprobs"
    assert sorted(find_ops()) == sorted(_registry.OPS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gather_logprob"], "did you mean gather_logprobs?"),
        (["--dtype", "int8"], "'int8' is none of"),
        (["--clock", "cpu", "--threads", "2"], "leave out --threads"),
        (["--shape", "12"], "'12' is not of the form 512x50257"),
        (["--shape", "0x5"], "'0x5' is not of the form"),
    ],
)
def test_bad_arguments_name_the_fix(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err
