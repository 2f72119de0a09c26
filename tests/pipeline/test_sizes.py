"""Bytes are written in one way everywhere."""

from __future__ import annotations

from toolkit.pipeline.disk import Disk, disk_notes
from toolkit.pipeline.sizes import size_text
from toolkit.report.numbers import memory


def test_sizes_have_three_digits():
    sizes = (0, 999, 5_200, 53_250_000, 700_000_000, 2_600_000_000, 3 * 10**12)
    expected = ["0 B", "999 B", "5.20 kB", "53.2 MB", "700 MB", "2.60 GB", "3.00 TB"]
    assert [size_text(size) for size in sizes] == expected


def test_the_disk_of_plan_and_the_memory_of_the_report_are_written_alike():
    size = 2_600_000_000
    (note,) = disk_notes(Disk(models=size, kept_epochs=0, checkpoints=size, free=10 * size))
    assert note.count(memory(size)) == 2
