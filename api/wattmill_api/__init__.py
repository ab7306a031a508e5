"""The Wattmill service: takes batches in, keeps the ledger, answers people and tools."""

from wattmill_collector import __version__

__all__ = ["__version__"]
