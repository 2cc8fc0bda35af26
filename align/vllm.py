"""vLLM inside this process: what has to be around it, for whoever uses it (sampling, online training, scoring).

Everything that a tiny model on two cores would wait for is left out on CPU; on a GPU vLLM's own defaults hold.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
from collections.abc import Iterator
from typing import Any

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # no process of its own: starts sooner, schedules the same way each time
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_HOST_IP": "127.0.0.1",  # otherwise vLLM looks for the machine's address in the network
}
CPU_ENVIRONMENT = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}  # cores are shared with other processes


@contextlib.contextmanager
def undisturbed(on_cpu: bool) -> Iterator[None]:
    """Environment, threads and random states are afterwards what they were: starting vLLM changes all three."""
    import numpy as np
    import torch

    before, threads, set_threads = dict(os.environ), torch.get_num_threads(), torch.set_num_threads
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    os.environ.update(ENVIRONMENT | (CPU_ENVIRONMENT if on_cpu else {}))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        torch.set_num_threads = set_threads
        torch.set_num_threads(threads)
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def shut_down(llm: Any) -> None:
    """End an `LLM`'s engine and free what it holds; the caller keeps no other reference."""
    llm.llm_engine.engine_core.shutdown()
    gc.collect()
