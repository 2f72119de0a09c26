"""`--version` names the toolkit, what it stands on, and how the kernels are built."""

from __future__ import annotations

import platform
from importlib import metadata

import torch
import transformers

import rlhf_kernels
from toolkit.__main__ import main
from toolkit.pipeline import gpu


def test_the_versions_are_those_that_the_packages_say_themselves(capsys):
    assert main(["--version"]) == 0
    cuda = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    assert capsys.readouterr().out.splitlines() == [
        f"rlhf-toolkit {metadata.version('rlhf-toolkit')}, Python {platform.python_version()}",
        f"torch {torch.__version__} ({cuda}), transformers {transformers.__version__}",
        f"kernels built, {'with' if rlhf_kernels.has_cuda() else 'without'} CUDA",
    ]


def test_kernels_with_and_without_device_code_differ(tmp_path, monkeypatch, capsys):
    module = tmp_path / "_C.so"
    monkeypatch.setattr(gpu, "kernel_files", lambda: [module])
    for content, said in ((b".nv_fatbin", "with"), (b".text", "without")):
        module.write_bytes(content)
        assert main(["--version"]) == 0
        assert capsys.readouterr().out.endswith(f"kernels built, {said} CUDA\n")


def test_what_is_missing_is_said(monkeypatch, capsys):
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    monkeypatch.setattr(gpu, "kernel_files", list)
    assert main(["--version"]) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("rlhf-toolkit not installed, Python ")
    assert second == "torch not installed, transformers not installed"
    assert third == "kernels not built; run: pip install -e ."
