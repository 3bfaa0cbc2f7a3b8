"""The conformance kit as pytest runs it."""

pytest_plugins = ["rlx.testing.conformance.pytest_plugin"]
