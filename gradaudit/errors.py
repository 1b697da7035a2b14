"""Errors that end the program with one line on stderr and an exit code of their own."""

from __future__ import annotations

CLEAN = 0
FINDINGS = 1
USAGE = 2
INTERNAL = 101
INTERRUPTED = 130

INPUTS = "mend it, or give other inputs (--inputs module:function, --input name=float32:32x4)"
"""What to do where a loss raises."""


class GradauditError(Exception):
    """The root: whatever we raise on purpose. Its message is for the user; its exit code is the process's."""

    exit_code = USAGE


class UsageError(GradauditError):
    """The command line asks for something that does not exist or does not fit together."""


class ConfigError(GradauditError):
    """The configuration cannot be read or says something that we do not know."""


class CatalogError(GradauditError):
    """A rule module is not what a rule must be."""


class CheckError(GradauditError):
    """A loss cannot be audited: it is not there, cannot be run, or has no gradient; the message says what to do."""


class UserCodeError(CheckError):
    """The user's own code raised; `cause` is its exception, whose traceback is shown above the message."""

    def __init__(self, message: str, cause: BaseException) -> None:
        super().__init__(message)
        self.cause = cause
