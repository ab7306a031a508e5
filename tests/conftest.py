"""Fixtures by subject, each in a plug-in of its own. In this order: the others use the first."""

pytest_plugins = ["fix_database", "fix_browser", "fix_promtool"]
