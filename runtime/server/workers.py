"""Where what blocks is run: a few threads, a queue that is never longer than said, and no wait without an end."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import TypeVar

from .protocol import RequestError

T = TypeVar("T")


class Workers:
    """Runs the work of requests.

    Args:
        threads: that work at once.
        waiting: requests that may wait for them; the next one is refused at once.
        timeout_s: for receiving a request, and again for working on it, its wait included.
    """

    def __init__(self, threads: int, waiting: int, timeout_s: float):
        self._pool = ThreadPoolExecutor(threads, "stretto")
        self._places = BoundedSemaphore(threads + waiting)
        self._count, self._timeout_s = threads + waiting, timeout_s

    async def run(self, receive: Callable[[], Awaitable[bytes]], work: Callable[[bytes], T]) -> T:
        """What `work` makes of the body; a place is taken before the body is received, so bodies can't pile up.

        Raises:
            RequestError: no place is free (503), the body takes too long (408), or the work does (504).
        """
        if not self._places.acquire(blocking=False):
            raise RequestError(f"all {self._count} places for requests are taken; try again later", 503, "busy")
        try:
            body = await self._in_time(receive(), "the body didn't arrive", 408, "slow_body")
            future = self._pool.submit(work, body)
        except BaseException:
            self._places.release()
            raise
        # the thread, not the request, holds the place: it works on after a time-out
        future.add_done_callback(lambda _: self._places.release())
        return await self._in_time(asyncio.wrap_future(future), "no answer", 504, "timeout")

    async def _in_time(self, awaited: Awaitable[T], problem: str, status: int, reason: str) -> T:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await awaited
        except TimeoutError as error:
            raise RequestError(f"{problem} within {self._timeout_s:g} s", status, reason) from error

    def close(self) -> None:
        """Drops who waits, then waits for what runs."""
        self._pool.shutdown(cancel_futures=True)
