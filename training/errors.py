"""Errors of the training side that a caller may want to catch."""

from ..runtime.errors import StrettoError


class TraceError(StrettoError):
    """A network can't be traced into a graph; names the line that stands in the way and what to do."""


class ExportError(StrettoError):
    """A network can't be written as a bundle; names the part and what stands in the way."""
