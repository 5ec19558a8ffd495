"""Memory that is freed stays with the process, for the next step to take."""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Tells glibc's allocator to keep large blocks that are freed; what training and the commands call at their start.

    By default such a block goes back to the system, which clears its pages again, one fault for every 4 KiB, when the
    next step asks for as much: a third of the time of a training step on a CPU (docs/performance.md). The price is that
    the process keeps the most that it ever held.

    Returns:
        whether it is so now; False where the C library is another one, which is left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
