"""Every error that reaches a user: what was wrong, the value, the limit, and the flag or command that mends it.

One root class carries the exit status of the commands; each subclass also inherits the builtin that a caller of
the Python interface would expect to catch.
"""

from __future__ import annotations

__all__ = [
    "CapacityError",
    "CaptureError",
    "CorruptChunkError",
    "InputError",
    "MissingDependencyError",
    "OutlierFeaturesError",
    "SignatureError",
    "StoreError",
    "StoreExistsError",
]


class OutlierFeaturesError(Exception):
    """Root of all errors that a command prints without a traceback; ``exit_status`` is what it exits with."""

    exit_status = 1


class InputError(OutlierFeaturesError, ValueError):
    """A flag, file, model or text that cannot be used as given."""

    exit_status = 2


class MissingDependencyError(OutlierFeaturesError, ImportError):
    """An optional dependency is not installed; the message is the command that installs it."""

    exit_status = 2


class StoreError(InputError):
    """A path that is no run store, a store of a newer format, or one that cannot answer what was asked."""


class StoreExistsError(StoreError):
    """There is something already where a store was to be made: it was there, or appeared meanwhile."""


class SignatureError(StoreError):
    """An existing store was made with other settings; the message lists those that differ."""


class CorruptChunkError(StoreError):
    """A chunk whose checksum does not hold; the message names the array, the chunk and its coordinates."""


class CapacityError(OutlierFeaturesError):
    """The run does not fit: memory or disk. Exit status 1, as for a run that failed."""


class CaptureError(OutlierFeaturesError, RuntimeError):
    """A capture that had to stop: a site that did not fire, a tensor of the wrong shape, a disk that filled up."""
