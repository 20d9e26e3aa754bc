"""One torch thread a process: the tests' networks are small, and several processes' pools would wait for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded, and by the processes that tests start
