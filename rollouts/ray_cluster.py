"""A Ray cluster to work in: one that is running, or one of our own on this machine that ends with the work.

A cluster runs whatever code it is sent, so our own listens on loopback alone and takes only who knows a random token.
"""

import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from align.errors import ServiceError

OBJECT_STORE_BYTES = 100 << 20
"""Requests and answers are token ids, so a cluster of our own needs little shared memory."""
PREFIX = "align-ray-"
LONGEST_HOME = 20
"""Ray's sockets lie some 60 characters below its folder, that one takes 27, and a socket's path ends at 107."""


@contextmanager
def cluster(address: str | None, patience: float) -> Iterator[bool]:
    """Connected to the cluster at `address`, or to a new one of our own; a connection that is there already is used.

    Yields whether it is our own. Raises ServiceError where no cluster answers within `patience` seconds.
    """
    with _kept_environment():
        import ray

        if ray.is_initialized():
            yield False
        elif address is None:
            with _own_token(), _own_cluster():
                yield True
        else:
            _connect(address, patience)
            try:
                yield False
            finally:
                ray.shutdown()


def nodes() -> list[dict[str, Any]]:
    """The living nodes: each one's `NodeID`, `NodeName`, and `Resources` in all, such as CPU and GPU."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def this_node() -> str:
    """The id of the node on which this process runs."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def inventory() -> str:
    """What each node has, in words."""
    return "; ".join(f"{node['NodeName']}: {_have(node, 'CPU')} CPU, {_have(node, 'GPU')} GPU" for node in nodes())


def places(cpus: int, gpus: int) -> int:
    """How many workers of so many CPUs and GPUs have room on the nodes when nothing else runs there."""
    wanted = {kind: count for kind, count in (("CPU", cpus), ("GPU", gpus)) if count}
    return sum(min(_have(node, kind) // count for kind, count in wanted.items()) for node in nodes())


def _have(node: dict[str, Any], kind: str) -> int:
    return int(node["Resources"].get(kind, 0))


def _connect(address: str, patience: float) -> None:
    """Ray tries for a quarter of an hour where something else answers, so it does that in a thread of its own."""
    import ray

    failures: list[Exception] = []

    def attempt() -> None:
        host, _, port = address.rpartition(":")
        try:
            with socket.create_connection((host, int(port)), timeout=patience):
                pass  # where nobody listens, the reason is known at once
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as failure:
            failures.append(failure)

    thread = threading.Thread(target=attempt, daemon=True)
    with chdir(
        "/"
    ):  # Ray puts the working directory first on its workers' path: a user's `reward.py` would be our package
        thread.start()
        thread.join(patience)
    if thread.is_alive() or failures:
        reason = _first_line(failures[0]) if failures else f"nothing after {patience:g} s"
        raise ServiceError(
            f"no Ray cluster answers at {address}: {reason}", where="rollouts.ray.address",
            hint="run on one of its nodes (`ray start --address` makes this one), or leave the address out for a cluster of our own",
        )  # fmt: skip


@contextmanager
def _own_cluster() -> Iterator[None]:
    import ray

    home = _short_folder()
    _remove_left_behind(home)
    folder = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=home)
    try:
        with _kept_signals(), _loopback(), chdir(folder):  # see `_connect`
            ray.init(
                "local",
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _node_ip_address="127.0.0.1",
                _temp_dir=f"{folder}/r",  # Ray opens its folder to everybody; the one around it stays ours
            )
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _own_token() -> Iterator[None]:
    """A cluster that starts here asks everybody for a new random token; afterwards Ray knows no other than before."""
    try:
        with _kept_environment():
            os.environ.update(RAY_AUTH_TOKEN=secrets.token_hex(32), RAY_USAGE_STATS_ENABLED="0")
            os.environ.pop("RAY_AUTH_MODE", None)  # where it is not set, a new cluster asks for tokens
            _forget_token()
            yield
    finally:
        _forget_token()


def _forget_token() -> None:
    """Ray keeps the token and the mode of the process' first cluster; this has it look again."""
    import ray

    raylet: Any = ray._raylet
    raylet.AuthenticationTokenLoader.instance().reset_cache()
    raylet.Config.initialize("")


def _short_folder() -> str:
    """Where temporary files go, if sockets can lie there."""
    usual = tempfile.gettempdir()
    return usual if len(usual) <= LONGEST_HOME else "/tmp"


def _remove_left_behind(home: str) -> None:
    """Folders of processes that were killed; what they had started has ended by itself."""
    for folder in Path(home).glob(f"{PREFIX}*-*"):
        try:
            os.kill(int(folder.name.removeprefix(PREFIX).split("-")[0]), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (ValueError, PermissionError):  # not ours
            continue


@contextmanager
def _loopback() -> Iterator[None]:
    """Ray puts the machine's outward address in the place of 127.0.0.1, except where it does not expect other nodes."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _kept_environment() -> Iterator[None]:
    """Ray sets variables of its own, PYTHONBREAKPOINT among them."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _kept_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself, which is the caller's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
