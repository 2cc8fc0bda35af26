"""Training: demonstrations and preferences in, a published checkpoint out."""

import os

# Read once, when torch is loaded, which any function of this package may do. Threads that spin while they wait make a
# training step several times slower on cores that are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
