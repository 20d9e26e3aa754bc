"""Other Python threads of this process let a request's thread go on soon after each of its graphs has ended.

A graph runs without the interpreter's lock, and whoever computes in Python meanwhile gives it back only when asked to
after the switch interval, 5 ms by default: longer than many graphs run. So during requests that interval is short: for
all of them, as NumPy gives the lock away as well, and with it one of them waited up to three times 5 ms.
"""

import sys
from threading import Lock

INTERVAL_S = 0.0001  # waking up takes a thread about as long


class Handover:
    """A block in which the interpreter is handed over soon, entered by any number of threads at once.

    With the end of the last one the process has its own interval again. A shorter one, and one that somebody sets
    meanwhile, are left alone.
    """

    def __init__(self) -> None:
        self._changing = Lock()
        self._inside, self._usual_s, self._short_s = 0, 0.0, 0.0

    def __enter__(self) -> None:
        self.enter()

    def __exit__(self, *error: object) -> None:
        self.leave()

    def enter(self) -> None:
        """For what ends elsewhere than it begins; `leave` as often."""
        with self._changing:
            self._inside += 1
            if self._inside == 1:
                self._usual_s = sys.getswitchinterval()
                if self._usual_s > INTERVAL_S:
                    sys.setswitchinterval(INTERVAL_S)
                    self._short_s = sys.getswitchinterval()  # in whole microseconds

    def leave(self) -> None:
        """The end of what `enter` began, by any thread."""
        with self._changing:
            self._inside -= 1
            if not self._inside and sys.getswitchinterval() == self._short_s:
                sys.setswitchinterval(self._usual_s)


SOON = Handover()  # of the process, as the interval is
