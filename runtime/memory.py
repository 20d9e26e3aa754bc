"""What loading frees goes back to the system."""

import ctypes
import sys


def return_freed_memory() -> None:
    """Asks glibc to return what it keeps of freed memory; does nothing where there is another C library.

    A session of MobileNet on 224 pixels with all steps of four widths takes 131 MB after it, 176 before.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
