"""Errors that a caller may want to catch; anything else is a plain ValueError or TypeError."""


class StrettoError(Exception):
    """Base of the project's own errors."""


class BundleError(StrettoError):
    """A bundle can't be read or isn't what its manifest says; names the file, the member and what was expected."""


class InputError(StrettoError, ValueError):
    """A request's input doesn't fit the bundle's input specification; the session stays usable."""


class BudgetError(StrettoError, ValueError):
    """A request's budget limits what the session's policy doesn't look at; names the policy, and those that do."""


class EngineError(StrettoError, RuntimeError):
    """An engine failed at a point, and no other point could stand in; names the point and the engine's own error."""


class ClosedError(StrettoError, RuntimeError):
    """A session or an engine is used after it was closed, or in a fork; names it."""
