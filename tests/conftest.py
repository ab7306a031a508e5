"""Fixtures by subject, each in a plug-in of its own."""

pytest_plugins = ["fix_database"]
