"""The task sort with skills: the second half of the alphabet it sorts, backwards or not."""

from toolkit.data.tasks.base import Cloze
from toolkit.data.tasks.sort import Sort


class Skilled(Sort):
    """Sort, and two texts of each kind."""

    def skills(self, count):
        """Return `count` texts whose rest is one or two letters."""
        cases = [Cloze("one", "ab", "c"), Cloze("two", "a", "bc")]
        return [cases[at % 2] for at in range(count)]


def make(settings):
    """Make the task."""
    return Skilled(settings)
