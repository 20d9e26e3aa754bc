"""Stand-in until branch coded is merged."""
import zlib
import numpy as np
def encode(arrays, scales={}):
    return b"".join(zlib.compress(np.ascontiguousarray(a).tobytes()) for a in arrays.values())
