"""Rankings that people made of a round's collected answers, put back to the answers they rank.

They come from the file that `label.file` names, or from the run folder, where the ranking page
writes them. The token ids are those that were sampled: no answer is tokenised again.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from toolkit.data.collected import Placed, Progress, place, progress_of, read_own
from toolkit.data.contradictions import contradictions
from toolkit.data.formats import read_collected_rankings, shorten
from toolkit.spec.errors import DataError, StageFailed, WaitsForLabels
from toolkit.spec.labels import own_rankings
from toolkit.stages.shared import Record

PER_ANSWER = ("responses", "responses_ids", "finished", "source")


class Ranked(NamedTuple):
    """Rankings with token ids, and sentences a user should read."""

    records: list[Record]
    warnings: list[str]


def ranked_in_file(file: str, samples: list[Record]) -> Ranked:
    """Return the rankings of collected answers that a file of people's holds.

    Args:
        file: `label.file`.
        samples: what was collected.

    Raises:
        DataError: a record is wrong, or ranks what was not collected; it holds every problem.
    """
    read = read_collected_rankings(file)
    placed, strangers = place(read, samples)
    if read.problems or strangers:
        raise DataError([*read.problems, *shorten(strangers, fix="")])
    warnings = contradictions(file, read.records)
    warnings += _left_out(file, progress_of(read.records, samples))
    return Ranked([_record(one) for one in placed], warnings)


def ranked_in_run(name: str, run: str, samples: list[Record], quorum: float) -> Ranked:
    """Return the rankings that people made on the page of `python -m toolkit label`.

    Args:
        name: of the stage that asks.
        run: the run folder.
        samples: what was collected.
        quorum: `label.quorum`.

    Raises:
        WaitsForLabels: fewer prompts are ranked than the quorum asks for.
        StageFailed: no prompt has two different answers.
        DataError: the file was edited, and a record of it is wrong.
    """
    file = Path(run, own_rankings(name))
    read, outdated = read_own(file, samples)
    if read.problems:
        raise DataError(read.problems)
    progress = progress_of(read.records, samples)
    if not progress.total:
        raise StageFailed(
            f"{name}: no prompt has two different answers, so there is nothing to rank; raise "
            "collect.sampling.temperature, or collect more answers to each (collect.k)"
        )
    if not progress.suffices(quorum):
        raise WaitsForLabels(
            f"{name}: {progress}; rank on the page of `python -m toolkit label {run}`, or add a "
            f"file of rankings with its --import, until {progress.needed(quorum)} are "
            f"(label.quorum {quorum:g}); then run again: what is finished is kept"
        )
    warnings = contradictions(str(file), read.records) + _left_out(str(file), progress)
    if outdated:
        gone = "rankings of answers that were collected earlier are left out"
        warnings.append(f"{file}: {gone} ({outdated})")
    placed, _ = place(read, samples)
    return Ranked([_record(one) for one in placed], warnings)


def _left_out(file: str, progress: Progress) -> list[str]:
    left = progress.total - progress.ranked
    count = f"{progress.ranked} of {progress.total} prompts"
    return [f"{file} ranks {count}; {left} are left out"] if left else []


def _record(placed: Placed) -> Record:
    ranking, places = placed
    about = {key: value for key, value in places[0][0].items() if key not in PER_ANSWER}
    answers = {key: [sample[key][at] for sample, at in places] for key in PER_ANSWER}
    said: Record = {} if ranking.labeler is None else {"labeler": ranking.labeler}
    if ranking.metadata:
        said["metadata"] = [dict(each) for each in ranking.metadata]
    return about | answers | {"ranks": list(ranking.ranks)} | said
