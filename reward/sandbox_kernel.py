"""What the kernel lets a process give up for good: system calls (seccomp) and files (Landlock).

Standard library only, for `sandbox_child.py` imports it in a Python without packages. The numbers are those of Linux'
headers; system calls from 424 on have one number on all architectures.
"""

import ctypes
import os
import platform
import struct
from collections.abc import Sequence

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
LOAD, EQUAL, ABOVE, ANY_OF, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
"""Where in what the filter sees."""
EPERM, ENOSYS, EAFNOSUPPORT = 1, 38, 97
NEW_NAMESPACES = 0x7E020000
UNIX, INET, INET6 = 1, 2, 10

AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
FOREIGN = 0x40000000
"""From here on x86_64 takes a number for one of another calling convention (x32), past a filter by number."""

# memory that no limit of a process counts, and ways into other processes, namespaces and the kernel; (x86_64, aarch64)
NEVER = {
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "shmdt": (67, 197),
    "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192),
    "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187), "mq_open": (240, 180),
    "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "unshare": (272, 97), "setns": (308, 268), "clone3": (435, 435),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "fanotify_init": (300, 262),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
}  # fmt: skip
# what a program may do to its user's other processes and files that Landlock does not see
BESIDE = {
    "socket": (41, 198), "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setattr": (314, 274),
    "migrate_pages": (256, 238), "move_pages": (279, 239), "process_madvise": (440, 440),
    "truncate": (76, 45), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "removexattrat": (466, 466),
    "file_setattr": (469, 469), "inotify_init": (253, None), "inotify_init1": (294, 26),
}  # fmt: skip
SIGNALS = {
    "kill": (62, 129), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
}  # fmt: skip
BY_OTHER_NAMES = {"tkill": (200, 130), "pidfd_send_signal": (424, 424)}
CLONE, SOCKET, SOCKETPAIR, PRLIMIT = (56, 220), (41, 198), (53, 199), (302, 261)

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
EXECUTE, WRITE, READ, READ_FOLDER = 1, 2, 4, 8
FILES_OF = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""All rights to files that a version of Landlock knows, from each version on that added some."""
SCOPES = 6
"""The version of Landlock from which on signals stay inside."""
OF_FILES = EXECUTE | WRITE | READ | 1 << 14 | 1 << 15
"""Those that a file can have, and not only a folder: also truncate and device ioctls."""


class Refused(Exception):  # noqa: N818 - a refusal of the kernel's
    """The kernel does not let us; the message says what."""


def check(result: int, what: str) -> int:
    if result < 0:
        raise Refused(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


# System calls ---------------------------------------------------------------------------------------------------------


def forbid_calls(*, beside: bool) -> None:
    """No system calls that reach memory no limit counts, other processes or the kernel's less tried parts. `beside` its
    user's other processes and files (with nothing but Landlock between them) also none that change those."""
    machine = platform.machine()
    if machine not in AUDIT_ARCHITECTURE:
        raise Refused(f"a filter of system calls for {machine}")
    place = list(AUDIT_ARCHITECTURE).index(machine)
    program = list(_filter(AUDIT_ARCHITECTURE[machine], place, beside))
    code = ctypes.create_string_buffer(b"".join(program))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]

    whole = Program(len(program), ctypes.addressof(code))
    check(LIBC.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(whole), 0, 0), "a filter of system calls")


def _filter(architecture: int, place: int, beside: bool) -> "list[bytes]":
    """Classic BPF; every block leaves the call's number loaded or returns."""
    never = [*NEVER.values(), *(BESIDE.values() if beside else ())]
    code = [
        _do(LOAD, ARCHITECTURE), _do(EQUAL, architecture, 1, 0), _do(RETURN, KILL),
        _do(LOAD, NUMBER), _do(ABOVE, FOREIGN, 0, 1), _do(RETURN, ERRNO | ENOSYS),
    ]  # fmt: skip
    for numbers in never:
        if numbers[place] is not None:
            code += [_do(EQUAL, numbers[place], 0, 1), _do(RETURN, ERRNO | (ENOSYS if numbers[0] == 435 else EPERM))]
    code += _unless(CLONE[place], [_do(ANY_OF, NEW_NAMESPACES, 0, 1), _do(RETURN, ERRNO | EPERM)])
    if not beside:
        families = [_do(EQUAL, UNIX, 3, 0), _do(EQUAL, INET, 2, 0), _do(EQUAL, INET6, 1, 0)]
        code += _unless(SOCKET[place], [*families, _do(RETURN, ERRNO | EAFNOSUPPORT)])
    code += _unless(SOCKETPAIR[place], [_do(EQUAL, UNIX, 1, 0), _do(RETURN, ERRNO | EAFNOSUPPORT)])
    code += _unless(PRLIMIT[place], [_do(EQUAL, 0, 1, 0), _do(RETURN, ERRNO | EPERM)])
    if beside and landlock_version() < SCOPES:
        for numbers in BY_OTHER_NAMES.values():
            code += [_do(EQUAL, numbers[place], 0, 1), _do(RETURN, ERRNO | EPERM)]
        for numbers in SIGNALS.values():
            code += _unless(numbers[place], [_do(EQUAL, os.getpid(), 1, 0), _do(RETURN, ERRNO | EPERM)])
    return [*code, _do(RETURN, ALLOW)]


def _unless(number: int, test: "list[bytes]") -> "list[bytes]":
    """For the call of that number `test` sees its first argument, and lets it pass by coming to its end."""
    return [_do(EQUAL, number, 0, len(test) + 2), _do(LOAD, ARGUMENTS), *test, _do(RETURN, ALLOW)]


def _do(code: int, value: int, if_so: int = 0, else_: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_so, else_, value)


# Files ----------------------------------------------------------------------------------------------------------------


def landlock_version() -> int:
    """0 where the kernel has none."""
    return max(0, int(LIBC.syscall(CREATE_RULESET, None, 0, 1)))


def forbid_files(*, read: Sequence[str], write: Sequence[str]) -> None:
    """No file but those below `read`, to be read and run, and below `write`; from Linux 6.12 on no signal to a process
    that was there before, and no connection to its abstract sockets."""
    version = landlock_version()
    if not version:
        raise Refused("this kernel has no Landlock (Linux 5.13 may have it)")
    known = FILES_OF[max(v for v in FILES_OF if v <= version)]
    network, scopes = (3 if version >= 4 else 0), (3 if version >= SCOPES else 0)
    attributes = struct.pack("QQQ", known, network, scopes)[: 24 if version >= SCOPES else 16 if version >= 4 else 8]
    rules = check(LIBC.syscall(CREATE_RULESET, attributes, len(attributes), 0), "Landlock")
    for paths, rights in ((read, EXECUTE | READ | READ_FOLDER), (write, known)):
        for path in paths:
            _allow(rules, path, rights & known)
    check(LIBC.syscall(RESTRICT_SELF, rules, 0), "Landlock")
    os.close(rules)


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except PermissionError:  # what this user cannot reach needs no rule: root's Python, for a user who is not root
        return
    if not os.path.isdir(path):  # noqa: PTH112 - a handful of them, in a process that imports little
        rights &= OF_FILES
    rule = struct.pack("=Qi", rights, handle)
    check(LIBC.syscall(ADD_RULE, rules, 1, rule, 0), f"Landlock for {path}")
    os.close(handle)
