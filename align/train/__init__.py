"""Training: demonstrations and preferences in, a published checkpoint out."""

import ctypes
import os

# Read once, when torch is loaded, which any function of this package may do. Threads that spin while they wait make a
# training step several times slower on cores that are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# glibc keeps what a thread frees for that thread, so that passes side by side (`align.train.lanes`) would need more
# memory than they use. It has to be told before there are threads; other C libraries have no such option.
_M_ARENA_MAX = -8
if hasattr(_libc := ctypes.CDLL(None), "mallopt"):
    _libc.mallopt(_M_ARENA_MAX, 1)
