"""The processes that train one model together: how many there are, which one this is, what they agree on.

torchrun tells each process in its environment; `align.train.launch` starts it. A process alone is a world of one.
Every function is called by all processes at the same point.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from align.errors import ConfigError, StageError

Value = TypeVar("Value")


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this is, from 0; only 0 publishes, and tells what happens."""
    return int(os.environ.get("RANK", "0"))


def join() -> None:
    """Meet the other processes: by NCCL on GPUs, by gloo on CPU.

    Raises ConfigError where the environment promises another number of processes than meet, and where there are more
    processes than GPUs, or more GPUs in sight than one for each process.
    """
    import torch
    import torch.distributed as dist

    wanted, gpus = world_size(), torch.cuda.device_count()
    if wanted == 1 and gpus > 1:
        raise ConfigError(
            f"one process trains on one GPU, found {gpus}", hint="give --nproc, or choose one: CUDA_VISIBLE_DEVICES=0"
        )
    if wanted == 1:
        return
    if 0 < gpus < int(os.environ.get("LOCAL_WORLD_SIZE", wanted)):
        raise ConfigError(f"{wanted} processes need a GPU each, found {gpus}", hint=f"give --nproc {gpus}")
    if not dist.is_initialized():
        if gpus:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        else:
            os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"  # it would say cpu:0, and torch.load knows no such place
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
        except ValueError as error:  # a variable that torchrun sets is missing
            raise ConfigError(
                f"WORLD_SIZE is {wanted}, but no launcher started this process ({error})",
                hint="use --nproc, or torchrun",
            ) from error
    if (found := dist.get_world_size()) != wanted:
        raise ConfigError(f"WORLD_SIZE is {wanted}, but {found} processes have met", hint="use --nproc, or torchrun")


def check_world(trainer: Any) -> None:
    """StageError where the trainer counts other processes than we do: each would train a model of its own."""
    if (found := trainer.accelerator.num_processes) != world_size():
        raise StageError(f"{world_size()} processes were started, but the trainer knows of {found}")


def agreed(value: Value) -> Value:
    """What the first process says."""
    if world_size() == 1:
        return value
    import torch.distributed as dist

    said = [value]
    dist.broadcast_object_list(said, src=0)
    return said[0]


def wait_for_all() -> None:
    """Return when every process is here."""
    if world_size() > 1:
        import torch.distributed as dist

        dist.barrier()


def by_first(work: Callable[[], None]) -> None:
    """Let the first process do something on disk that all need; the others wait for it."""
    join()
    if rank() == 0:
        work()
    wait_for_all()


def alone(what: str) -> None:
    """ConfigError where several processes were started for something that takes one."""
    if world_size() > 1:
        raise ConfigError(f"{what} trains in one process, found {world_size()}", hint="leave --nproc out")


def gathered_weights(model: Any) -> dict[str, Any] | None:
    """The weights of a model that is sharded over processes, whole and on CPU, in the first one; None if it is not."""
    from torch.distributed.tensor import DTensor

    if any(isinstance(weights, DTensor) for weights in model.parameters()):
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if not any(hasattr(weights, "ds_id") for weights in model.parameters()):
        return None
    from deepspeed.zero import GatheredParameters

    found = {}
    for name, weights in model.named_parameters(remove_duplicate=False):
        with GatheredParameters([weights]):
            if rank() == 0:
                found[name] = weights.detach().cpu().clone()
    return found


def summed(numbers: Any) -> Any:
    """The tensor's sum over all processes."""
    if world_size() > 1:
        import torch.distributed as dist

        dist.all_reduce(numbers)
    return numbers
