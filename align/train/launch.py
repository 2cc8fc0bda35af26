"""Starts several processes that train one model, by torchrun on this machine, and reads files of `accelerate
config`."""

from __future__ import annotations

import importlib.util
import os
import socket
from pathlib import Path
from typing import Any

import yaml

from align.errors import ConfigError
from align.python import SAFE_PATH, python_module
from align.train.world import world_size

SHIPPED = Path(__file__).with_name("accelerate")
NEEDS_GPU = {"FSDP": "FSDP", "DEEPSPEED": "DeepSpeed"}
PLAIN = ("NO", "MULTI_GPU", "MULTI_CPU")
FILE = "ALIGN_ACCELERATE"


def launch_command(module: str, *arguments: str, nproc: int) -> list[str]:
    """The command that runs `python -m module arguments` in `nproc` processes; they meet on loopback only."""
    if nproc == 1:
        return python_module(module, *arguments)
    torchrun = python_module("torch.distributed.run", "--standalone", "--local-addr=127.0.0.1")
    return [*torchrun, f"--nproc-per-node={nproc}", "--max-restarts=0", "-m", module, *arguments]


def launch_environment(accelerate: Path | None, *, nproc: int, threads: int | None) -> dict[str, str]:
    """What the processes need in their environment beside what torchrun tells them."""
    if nproc == 1:
        return dict(SAFE_PATH)
    count = str(threads_of_each(threads, nproc))
    found = {**SAFE_PATH, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "TOKENIZERS_PARALLELISM": "false"}
    loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    if loopback:
        found["GLOO_SOCKET_IFNAME"] = loopback[0]
    if accelerate is not None:
        found[FILE] = str(accelerate.absolute())
    return found


def require_no_launcher() -> None:
    """ConfigError in a process that torchrun or `accelerate launch` started: each would do the whole command."""
    if world_size() > 1:
        raise ConfigError(
            f"a launcher has started {world_size()} processes of this command",
            hint="start one; it starts the others itself (--nproc)",
        )


def threads_of_each(threads: int | None, nproc: int) -> int:
    """CPU threads of one of `nproc` processes, which share `threads` (or all cores of this process)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, (threads or cores) // nproc)


def accelerate_file(name: str, nproc: int) -> Path:
    """The file behind `--accelerate`: `ddp`, `fsdp2`, `zero3`, or one of your own, for `nproc` processes.

    Raises ConfigError where there is no such file or it asks for what cannot be had.
    """
    shipped = sorted(path.stem for path in SHIPPED.glob("*.yaml"))
    path = SHIPPED / f"{name}.yaml" if name in shipped else Path(name)
    if nproc == 1:
        raise ConfigError("one process needs no accelerate", where="--accelerate", hint="give --nproc 2 or more")
    if not path.is_file():
        raise ConfigError(
            f"there is no file {name!r}", where="--accelerate", hint=f"take {', '.join(shipped)} or a file of your own"
        )
    asked = _read(path)
    for key, usual in (("num_processes", nproc), ("num_machines", 1)):
        if asked.get(key, usual) != usual:
            raise ConfigError(
                f"{key} is {asked[key]}, and here it is {usual}", where=str(path), hint=f"leave {key} out, or change it"
            )
    return path


def apply_accelerate(dtype: str) -> None:
    """In each process: do as the file that `launch_environment` named, if any. Call it before torch looks around.

    Raises ConfigError for a kind that cannot run here.
    """
    if FILE not in os.environ:
        return
    import torch

    path = Path(os.environ[FILE])
    asked = _read(path)
    kind = str(asked.get("distributed_type", "NO"))
    if kind in NEEDS_GPU and not torch.cuda.is_available():
        raise ConfigError(
            f"{NEEDS_GPU[kind]} needs a GPU for each process, found none", where=str(path), hint="use --accelerate ddp"
        )
    if kind == "DEEPSPEED" and importlib.util.find_spec("deepspeed") is None:
        raise ConfigError("DeepSpeed is not installed", where=str(path), hint="pip install deepspeed, or use fsdp2")
    if kind not in (*NEEDS_GPU, *PLAIN):
        known = ", ".join((*PLAIN, *NEEDS_GPU))
        raise ConfigError(f"distributed_type {kind!r} is not supported", where=str(path), hint=f"use one of {known}")
    precision = {"float32": "no", "bfloat16": "bf16"}[dtype]
    if asked.get("mixed_precision", precision) != precision:
        raise ConfigError(
            f"mixed_precision is {asked['mixed_precision']!r}, and the model's dtype is {dtype}",
            where=str(path),
            hint="leave mixed_precision out; dtype decides",
        )
    os.environ.update(_variables(path))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"this is no YAML ({str(error).splitlines()[0]})", where=str(path)) from error
    if not isinstance(found, dict):
        raise ConfigError("this is no file of `accelerate config`", where=str(path))
    return found


def _variables(path: Path) -> dict[str, str]:
    """The environment that `accelerate launch --config_file` would set, but for precision (`dtype` decides)."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    count = os.environ["WORLD_SIZE"]
    given = [
        "--config_file",
        str(path),
        "--num_processes",
        count,
        "--main_process_port",
        "0",
        "--mixed_precision",
        "no",
    ]
    try:
        arguments, defaults, _ = _validate_launch_command(launch_command_parser().parse_args([*given, "unused.py"]))
        if arguments.use_deepspeed:
            arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
            found = prepare_deepspeed_cmd_env(arguments)[1]
        else:
            found = prepare_multi_gpu_env(arguments)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"accelerate cannot use this file ({error})", where=str(path)) from error
    wanted = {name: text for name, text in found.items() if name.startswith(("ACCELERATE_", "FSDP_"))}
    return {name: text for name, text in wanted.items() if name != "ACCELERATE_MIXED_PRECISION"}
