"""What a service answers when it has no result."""

from __future__ import annotations

from sartor.core import SartorError

__all__ = ["OverloadError", "RequestError"]


class RequestError(SartorError, ValueError):
    """A request that cannot be answered with a result.

    Attributes:
        status: HTTP status, 400 to 599.

    Example:
        >>> RequestError("The body is empty; send a tensor.", status=422).status
        422
    """

    def __init__(self, message: str, *, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


class OverloadError(RequestError):
    """A request that no allowed point can answer in time, or that no point can answer at all.

    Attributes:
        reason: ``full`` (refused on arrival), ``late`` (its time ran out in the queue), ``failed``
            (the points that were tried failed) or ``closing``.
        retry_after_s: whole seconds after which a new try makes sense, at least 1.
    """

    def __init__(self, message: str, *, reason: str, retry_after_s: int = 1) -> None:
        super().__init__(message, status=503)
        self.reason = reason
        self.retry_after_s = max(1, retry_after_s)
