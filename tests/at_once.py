"""A plugin of pytest: what failed is named when it fails, in case the run does not reach its end.

python -m pytest -p tests.at_once ...
"""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Print where the terminal is, not in the processes that xdist starts."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(AtOnce(config))


class AtOnce:
    """Prints the line that pytest's own summary will have."""

    def __init__(self, config: pytest.Config) -> None:
        """Know where to print."""
        self.config = config

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Name the test and the first line of its error."""
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        if terminal is None or not report.failed:
            return
        crash = getattr(report.longrepr, "reprcrash", None)
        reason = str(crash.message).splitlines()[0] if crash else report.when
        terminal.write(f"\nFAILED {report.nodeid} - {reason}\n")  # after the dots of those before
        terminal.flush()
