"""Kernels compile at their first call, which says nothing about the law under test: no deadline for an example."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("kernels", deadline=None)
settings.load_profile("kernels")
