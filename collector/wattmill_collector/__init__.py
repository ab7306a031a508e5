"""The Wattmill agent: reads power and token counters, keeps them on disk, ships them."""

__version__ = "0.1.0"
