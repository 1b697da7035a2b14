"""Fixtures that several test files use."""

from fakes import shell

__all__ = ["shell"]
