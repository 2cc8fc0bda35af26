"""The program that `reward.sandbox` starts for each program to run: it builds the walls, runs it inside, tells the end.

Standard library only, started as `python -I -S -B sandbox_child.py REPORT_FD` with an order as JSON on standard input.
It lives in a process of its own because namespaces and limits cannot be taken off again, and because a fork of a
process with threads (torch, vLLM) may run nothing but another program.

    us → this program → namespaces: first process of a process namespace → the program
                      → limits:     the program

When this program is told to end, or whoever started it dies, everything below it is killed.
"""

import ctypes
import fcntl
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).parent))
from sandbox_kernel import LIBC, Refused, check, forbid_calls, forbid_files  # type: ignore[import-not-found] # beside this file

sys.path.pop(0)  # what else is there has names of the standard library's

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
SYS_MOUNT_SETATTR, AT_RECURSIVE, MNT_DETACH = 442, 0x8000, 2  # the system call has one number on all architectures
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 24, 36, 38
LAST_CAPABILITY = 63
NOBODY = 65534
OWN_USERS = 1 << 30
"""From here on root has a user for each program, so that none can touch another's; the process id is added."""
F_ADD_SEALS, SEALS = 1033, 0b1111
WORK = "/sandbox"
DEVICES = ("null", "zero", "random", "urandom")


def main() -> None:
    report = int(sys.argv[1])
    os.set_inheritable(report, False)
    order = json.load(sys.stdin)
    order["root"] = os.getuid() == 0
    os.umask(0o022)
    check(LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM), "prctl")
    if os.getppid() != order["parent"]:
        os._exit(1)  # it died before we asked to be told
    try:
        told = in_namespaces(order) if order["isolation"] == "namespaces" else in_limits(order)
    except Refused as refusal:
        told = {"refused": str(refusal)}
    except OSError as error:
        told = {"refused": f"{error.strerror} ({error.filename})" if error.filename else str(error)}
    os.write(report, json.dumps(told).encode())


# Namespaces -----------------------------------------------------------------------------------------------------------


def in_namespaces(order: dict[str, Any]) -> dict[str, Any]:
    """Run the program in a world without network, other processes and files; returns its wait status."""
    root = order["folder"]
    become_root_of_a_namespace()
    check(LIBC.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "making mounts private")
    build(root, order)
    told, tells = os.pipe()
    go, gone = os.pipe()
    inner = os.fork()
    if inner == 0:
        os.close(told)
        os.close(gone)
        first_process(root, order, go, tells)
    os.close(tells)
    os.close(go)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(inner, signal.SIGKILL))  # with it all of its namespace goes
    os.write(gone, b"g")
    with os.fdopen(told, encoding="utf-8") as file:
        said = file.read()
    os.waitpid(inner, 0)
    return json.loads(said) if said else {"status": signal.SIGKILL}


def become_root_of_a_namespace() -> None:
    """New namespaces in which this process may mount. What runs in them later is a user without any right: one of its
    own where we are root (the kernel does not limit the processes of root), else ourselves without capabilities."""
    uid, gid, me = os.getuid(), os.getgid(), os.getpid()
    done, ready = os.pipe()
    helper = os.fork()
    if helper == 0:  # stays outside: only from there may root give a second user
        os.close(ready)
        maps = [("setgroups", "deny"), ("uid_map", f"0 {uid} 1\n"), ("gid_map", f"0 {gid} 1\n")]
        if uid == 0:
            maps = [(name, f"0 0 1\n{NOBODY} {own_user(me)} 1\n") for name in ("uid_map", "gid_map")]
        try:
            for name, text in maps if os.read(done, 1) else []:
                Path(f"/proc/{me}/{name}").write_text(text)
        except OSError:
            os._exit(1)
        os._exit(0)
    os.close(done)
    flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
    failed = LIBC.unshare(flags) and ctypes.get_errno()
    if not failed:
        os.write(ready, b"r")
    os.close(ready)
    _, status = os.waitpid(helper, 0)
    if failed:
        raise Refused(f"unshare: {os.strerror(failed)}")
    if status or os.getuid() != 0:
        raise Refused("writing the user namespace's uid_map")


def own_user(number: int) -> int:
    """A user that nothing else runs as; nobody where this container has too few users."""
    wanted = OWN_USERS + number
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        first, _, count = map(int, line.split())
        if first <= wanted < first + count:
            return wanted
    return NOBODY


def build(root: str, order: dict[str, Any]) -> None:
    """A file tree at `root`: Python's own files, to be read, and an empty folder to work in."""
    mount_tmpfs(root, "size=1m,mode=755")
    for path in order["visible"]:
        show(path, root)
    Path(f"{root}/dev").mkdir(exist_ok=True)
    for name in DEVICES:
        target = Path(f"{root}/dev/{name}")
        target.touch()
        bind(f"/dev/{name}", str(target))
    for name in ("proc", WORK[1:]):
        Path(f"{root}/{name}").mkdir(exist_ok=True)
    if not Path(f"{root}/tmp").exists():  # Python itself may live there
        Path(f"{root}/tmp").symlink_to(WORK)
    read_only(root)
    mount_tmpfs(root + WORK, f"size={order['disk_mb']}m,nr_inodes=4096,mode=777")
    write_files(root + WORK, order)


def show(path: str, root: str) -> None:
    """`path` of the machine at the same place below `root`."""
    target = Path(root + path)
    target.parent.mkdir(parents=True, exist_ok=True)
    source = Path(path)
    if source.is_symlink():
        target.symlink_to(source.readlink())
    elif source.is_dir():
        target.mkdir(exist_ok=True)
        bind(path, str(target))
    else:
        target.touch()
        bind(path, str(target))


def bind(source: str, target: str) -> None:
    check(LIBC.mount(source.encode(), target.encode(), None, MS_BIND | MS_REC, None), f"mounting {source}")


def mount_tmpfs(target: str, options: str) -> None:
    flags = MS_NOSUID | MS_NODEV
    check(LIBC.mount(b"tmpfs", target.encode(), b"tmpfs", flags, options.encode()), "mounting a tmpfs")


def read_only(root: str) -> None:
    """Everything that is mounted at and below `root`."""

    class Attributes(ctypes.Structure):
        _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]

    wanted = Attributes(MS_RDONLY | MS_NOSUID, 0, 0, 0)
    result = LIBC.syscall(
        SYS_MOUNT_SETATTR, -100, root.encode(), AT_RECURSIVE, ctypes.byref(wanted), ctypes.sizeof(wanted)
    )
    check(result, "making mounts read-only (Linux 5.12 can)")


def first_process(root: str, order: dict[str, Any], go: int, tells: int) -> NoReturn:
    """The first process of the namespace: when it ends, the kernel kills all others there."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if not os.read(go, 1):
        os._exit(1)  # whoever started us died in between
    os.close(go)
    try:
        # Where the machine's own /proc is masked (some containers) the kernel refuses a new one; Python runs without
        # it.
        proc = LIBC.mount(b"proc", f"{root}/proc".encode(), b"proc", MS_NOSUID | MS_NODEV | 8, None) == 0
        if proc:
            forbid_namespaces(f"{root}/proc")
        os.chdir(root)
        check(LIBC.pivot_root(b".", b"."), "pivot_root")
        check(LIBC.umount2(b".", MNT_DETACH), "umount")
        os.chdir(WORK)
    except (Refused, OSError) as error:
        os.write(tells, json.dumps({"refused": str(error)}).encode())
        os._exit(1)
    child = os.fork()
    if child == 0:
        os.close(tells)
        # we count among its processes; NOBODY is its user's name inside
        become_the_program(order, NOBODY, processes=order["processes"] + (0 if order["root"] else 2))
    while True:
        pid, status = os.wait()
        if pid == child:
            break
    os.write(tells, json.dumps({"status": status}).encode())
    os._exit(0)


def forbid_namespaces(proc: str) -> None:
    """No namespaces within ours: the program has no use for them, and kernels had defects there."""
    Path(f"{proc}/sys/user/max_user_namespaces").write_text("0")


# Limits alone ---------------------------------------------------------------------------------------------------------


def in_limits(order: dict[str, Any]) -> dict[str, Any]:
    """Run the program in a folder of its own, with limits and what the kernel lets it give up; returns its wait
    status."""
    folder, user = order["folder"], own_user(os.getpid())
    check(LIBC.prctl(PR_SET_DUMPABLE, 0), "prctl")
    check(LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1), "prctl")  # whatever leaves its parent becomes our child
    write_files(folder, order)
    if order["root"]:
        os.chown(folder, user, user)
    count = order["processes"] + (0 if order["root"] else running_here())
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        become_the_program(order, user, processes=count)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
    while True:
        pid, status = os.wait()
        if pid == child:
            break
    end_descendants()
    return {"status": status}


def running_here() -> int:
    """Threads of this user on the machine, which the kernel counts together with the program's."""
    count = 0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if path.stat().st_uid == os.getuid():
                count += sum(1 for _ in (path / "task").iterdir())
        except OSError:  # it ended while we looked
            continue
    return count


def end_descendants() -> None:
    """Kill all that the program left, until nothing is left."""
    while True:
        for pid in descendants(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            os.wait()
        except ChildProcessError:
            return


def descendants(root: int) -> list[int]:
    """Processes below `root`, by the parents that /proc names."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text(errors="replace").rpartition(")")[2].split()[1])
        except (OSError, IndexError):  # it ended while we looked
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found, waiting = [], [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


# Both -----------------------------------------------------------------------------------------------------------------


def write_files(folder: str, order: dict[str, Any]) -> None:
    for name, text in order["files"].items():
        Path(f"{folder}/{name}").write_text(text, encoding="utf-8", errors="surrogatepass")


def become_the_program(order: dict[str, Any], user: int, *, processes: int) -> NoReturn:
    """In a fresh process: take the limits on, give all rights up, and become the program."""
    try:
        os.setsid()
        for name in ("SIGTERM", "SIGPIPE", "SIGXFSZ"):  # the last two are ignored by Python, and would stay so
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        given = os.memfd_create("stdin", os.MFD_ALLOW_SEALING)
        os.write(given, order["stdin"].encode(errors="surrogatepass"))
        os.lseek(given, 0, os.SEEK_SET)
        fcntl.fcntl(given, F_ADD_SEALS, SEALS)  # it is memory, and must not grow
        os.dup2(given, 0)
        os.closerange(3, 256)
        give_up_rights(user if order["root"] else None)
        check(LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL), "prctl")
        resource.setrlimit(resource.RLIMIT_CPU, (order["seconds"], order["seconds"] + 1))  # SIGXCPU, then SIGKILL
        for limit, value in (
            (resource.RLIMIT_AS, order["memory_mb"] << 20),
            (resource.RLIMIT_FSIZE, order["disk_mb"] << 20),
            (resource.RLIMIT_NPROC, processes),
            (resource.RLIMIT_NOFILE, 64),
            (resource.RLIMIT_CORE, 0),
        ):
            resource.setrlimit(limit, (value, value))
        alone = order["isolation"] == "limits"
        if alone:
            forbid_files(read=[*order["visible"], *(f"/dev/{name}" for name in DEVICES)], write=[order["folder"]])
        forbid_calls(beside=alone)
        os.execve(order["command"][0], order["command"], order["environment"])
    except (Refused, OSError, ValueError) as error:
        os.write(2, f"sandbox: {error}\n".encode())
    os._exit(126)


def give_up_rights(user: int | None) -> None:
    """Become `user` where root may choose one, and lose what it takes to become anybody else."""
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
    for capability in range(LAST_CAPABILITY + 1):
        LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails for those that this kernel has not, or we have not
    if user is not None:
        os.setresuid(user, user, user)
    check(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


if __name__ == "__main__":
    main()
