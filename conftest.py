"""Only loads the pytest plugin, where the installed entry point has not done so, and gives its options their short names."""

from __future__ import annotations

import pytest

from cgrace.harness import pytest_plugin


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """The first hook of a start: what is registered here still gets every hook, this one included."""
    if not pluginmanager.has_plugin("cgrace"):
        pluginmanager.register(pytest_plugin, "cgrace")
    pytest_plugin.add_options(parser)
