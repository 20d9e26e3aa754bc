"""Other people's load: processes that keep cores busy."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

# arithmetic on arrays larger than the second-level cache, as a training process beside the runtime would do
_WORK = """
import os
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
import numpy as np
a = np.random.default_rng(0).standard_normal((768, 768), np.float32)
print("busy", flush=True)
while True:
    a = np.tanh(a @ a / 768)
"""


@contextmanager
def busy_cores(count: int | None = None) -> Iterator[None]:
    """Keep `count` cores busy, all that this process may use by default, each by a process of its own."""
    cores = len(os.sched_getaffinity(0)) if count is None else count
    workers = [subprocess.Popen([sys.executable, "-c", _WORK], stdout=subprocess.PIPE, text=True) for _ in range(cores)]
    try:
        for worker in workers:
            if worker.stdout is None or worker.stdout.readline() != "busy\n":
                raise RuntimeError("a busy process ended before it began")
        time.sleep(0.5)  # the scheduler has seen them by then
        yield
    finally:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.wait()
            if worker.stdout is not None:
                worker.stdout.close()
