"""The compile report: parsing ptxas's words, the table, and that no kernel spills."""

import pytest

from rlhf_kernels.bench import resources

SYMBOL = (
    "_ZN4rlhf4cuda44_GLOBAL__N__eac9b3f2_11_token_kl_cu_d500cb9424token_kl_backward_kernel"
    "INS_4HalfEEEvPKfPKT_S8_PS6_lNS_4math11KlEstimatorE"
)
OTHER = SYMBOL.replace("INS_4HalfEEEvPKfPKT_S8_PS6_l", "IfEEvPKfPKT_S7_PS5_l")
REPORT = f"""\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '{SYMBOL}' for 'sm_80'
ptxas info    : Function properties for {SYMBOL}
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 16 registers, used 0 barriers, 393 bytes cmem[0]
ptxas info    : Compile time = 2.619 ms
ptxas info    : Compiling entry function '{OTHER}' for 'sm_80'
ptxas info    : Function properties for {OTHER}
    24 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 2048 bytes smem, 393 bytes cmem[0]
ptxas info    : Compiling entry function '{SYMBOL}' for 'sm_90a'
ptxas info    : Function properties for {SYMBOL}
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 18 registers, used 0 barriers
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "token_kl.cu.o.ptxas").write_text(REPORT, encoding="utf-8")
    return tmp_path


def test_every_number_of_a_report_is_read():
    first, second, third = resources.parse_report(REPORT, "token_kl")
    assert (first.registers, first.shared, first.arch) == (16, 0, "sm_80")
    assert (second.registers, second.shared, second.stack) == (255, 2048, 24)
    assert (second.spill_stores, second.spill_loads) == (8, 12)
    assert (third.registers, third.arch) == (18, "sm_90a")
    assert [usage.in_local_memory for usage in (first, second, third)] == [False, True, False]


def test_a_cut_report_is_an_error():
    with pytest.raises(ValueError, match="says nothing of the registers"):
        resources.parse_report(REPORT.partition("ptxas info    : Used")[0], "token_kl")


@pytest.mark.parametrize("tool", ["c++filt", None])
def test_names_are_readable_with_and_without_a_demangler(tool, folder, monkeypatch):
    if tool is None:
        monkeypatch.setattr(resources.shutil, "which", lambda name: None)
    names = {usage.kernel for usage in resources.read_reports(folder)}
    expected = {"token_kl_backward_kernel<Half>", "token_kl_backward_kernel<float>"}
    assert names == expected


def test_names_keep_template_arguments_with_parentheses():
    full = "void rlhf::cuda::(anonymous namespace)::a_kernel<float, (rlhf::E)1>(float const*, int)"
    assert resources.shorten(full) == "a_kernel<float, (E)1>"


def test_the_table_joins_instances_and_the_command_fails_on_spills(folder, capsys):
    document = folder / "doc.md"
    document.write_text(f"a\n{resources.BEGIN}\nold\n{resources.END}\nz\n", encoding="utf-8")
    assert resources.main([str(folder), "--write", str(document)]) == 1
    printed = capsys.readouterr().out
    line = "| token_kl.cu | `token_kl_backward_kernel` | 2 | 255 | 18 | 2048 | 20 | 24 |"
    assert line in printed
    assert "uses local memory" in printed
    assert printed.endswith("3 kernels, 1 of them in local memory\n")
    text = document.read_text(encoding="utf-8")
    assert line in text
    assert "old" not in text
    assert text.endswith(f"{resources.END}\nz\n")


def test_a_folder_without_reports_says_what_to_do(tmp_path, capsys):
    with pytest.raises(SystemExit):
        resources.main([str(tmp_path)])
    assert "RLHF_KERNELS_CUDA=ON" in capsys.readouterr().err


def test_no_kernel_of_the_build_uses_local_memory(root):
    usages = resources.read_reports(root / "build")
    if not usages:
        pytest.skip("build/ holds no report of ptxas: nvcc was not on PATH when it was made")
    assert [usage for usage in usages if usage.in_local_memory] == []
