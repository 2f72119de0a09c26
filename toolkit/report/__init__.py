"""What a run shows of itself: a table, report.json, one self-contained report.html. No torch."""
