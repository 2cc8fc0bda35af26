"""Programs that nobody trusts: each must be held, and nothing of it may be left."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

from align.errors import ConfigError
from reward import sandbox
from reward.sandbox import Isolation, Limits, run

SMALL = Limits(seconds=1, wall_seconds=30.0, memory_mb=256, disk_mb=4, processes=8)
SYSTEM_PYTHON = Path("/usr/bin/python3")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")


@pytest.fixture(params=["namespaces", "limits"])
def limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Limits:
    """Small limits with one isolation and then the other, where this machine can."""
    isolation: Isolation = request.param
    found = replace(SMALL, isolation=isolation, trusted=isolation == "limits")
    try:
        sandbox.require(found)
    except ConfigError:
        if isolation == "limits" and SYSTEM_PYTHON.exists():  # ours may be in root's home, which nobody may read
            monkeypatch.setattr(sys, "executable", str(SYSTEM_PYTHON))
            return found
        pytest.skip(f"this machine has no sandbox with isolation {isolation}")
    return found


def ours(program: str) -> str:
    """A program whose OURS is a word of this process alone, so that tests beside it are not taken for it."""
    return textwrap.dedent(program).replace("OURS", str(os.getpid()))


def left(marker: str) -> list[int]:
    """Processes whose command line has `marker`; one that was killed may need a moment."""
    found: list[int] = []
    for _ in range(50):
        found = [
            int(path.parent.name)
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if marker.encode() in _read(path) and int(path.parent.name) != os.getpid()
        ]
        if not found:
            return []
        time.sleep(0.1)
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_program_reads_prints_and_ends(limits: Limits) -> None:
    done = run("import sys; print(int(input()) * 2); print('hm', file=sys.stderr); sys.exit(3)", limits, given="21\n")
    assert (done.end, done.code, done.output, done.error, done.succeeded) == ("exit", 3, "42\n", "hm\n", False)
    assert run("print(open('notes.txt').read())", limits, files={"notes.txt": "ö"}).output == "ö\n"
    assert run("import os; os.kill(os.getpid(), 11)", limits).code == signal.SIGSEGV


def test_an_endless_loop_is_ended_by_its_cpu_seconds(limits: Limits) -> None:
    assert run("while True: pass", limits).end == "cpu"
    stubborn = run("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", limits)
    assert (stubborn.end, stubborn.code) == ("signal", signal.SIGKILL)


def test_a_sleeper_is_ended_by_the_clock(limits: Limits) -> None:
    began = time.monotonic()
    assert run("import time; time.sleep(600)", replace(limits, wall_seconds=0.5)).end == "clock"
    assert time.monotonic() - began < 15


def test_a_fork_bomb_is_held_and_nothing_of_it_is_left(limits: Limits) -> None:
    bomb = """
        import os, time
        try:
            while True:
                os.fork()
        except OSError:
            os.execv(os.path.realpath("/proc/self/exe"), ["a-bomb-OURS", "-c", "import time; time.sleep(600)"])
    """
    done = run(ours(bomb), replace(limits, wall_seconds=2.0))
    assert done.end == "clock"
    assert left(ours("a-bomb-OURS")) == []


def test_processes_and_threads_are_counted(limits: Limits) -> None:
    forks = """
        import os, time
        made = 0
        try:
            for made in range(100):
                if os.fork() == 0:
                    time.sleep(60)
                    os._exit(0)
        except OSError:
            pass
        print(made)
    """
    assert int(run(textwrap.dedent(forks), limits).output) < 2 * limits.processes


def test_what_goes_to_the_background_is_ended_with_the_program(limits: Limits) -> None:
    daemon = """
        import os, sys
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execv(sys.executable, ["a-daemon-OURS", "-c", "import time; time.sleep(600)"])
            os._exit(0)
        os.wait()
    """
    assert run(ours(daemon), limits).succeeded
    assert left(ours("a-daemon-OURS")) == []


def test_a_memory_hog_is_refused(limits: Limits) -> None:
    done = run("kept = bytearray(1 << 30)", limits)
    assert done.code == 1 and done.error.endswith("MemoryError\n")


def test_a_file_writer_is_held(limits: Limits) -> None:
    done = run("open('big', 'wb', buffering=0).write(bytes(1 << 22))\nopen('b', 'wb').write(bytes(1 << 23))", limits)
    assert not done.succeeded
    outside = Path.home() / "written-by-a-sandbox"
    done = run(f"open({str(outside)!r}, 'w').write('x')", limits)
    assert done.code == 1 and not outside.exists()


def test_a_flood_of_output_is_cut_off(limits: Limits) -> None:
    done = run("while True: print('x' * 1000)", replace(limits, seconds=20))
    assert (done.end, len(done.output)) == ("output", sandbox.OUTPUT)


def test_secrets_of_the_environment_stay_outside(limits: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-a-test")
    tell = "import os\nfor p in ('self', 'thread-self', str(os.getppid()), '1'):\n"
    tell += (
        "  try: print(open(f'/proc/{p}/environ').read())\n  except OSError as error: print(error)\nprint(os.environ)"
    )
    assert "sk-of-a-test" not in run(tell, limits).output


@pytest.fixture
def walls(limits: Limits) -> Limits:
    if limits.isolation == "limits":
        pytest.skip("limits alone have no walls, and say so")
    return limits


def test_there_is_no_network(walls: Limits) -> None:
    call = "import socket\nsocket.create_connection(('127.0.0.1', {}), 5)"
    with __import__("socket").create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        exec(call.format(port))
        done = run(call.format(port), walls)
    assert done.code == 1 and "Network is unreachable" in done.error


def test_there_are_no_files_but_pythons_own(walls: Limits) -> None:
    seen = run("import os; print(sorted(os.listdir('.')), os.path.exists('/etc/passwd'), os.getpid() < 10)", walls)
    assert seen.output == "['program.py'] False True\n"
    for path in (os.path.realpath(os.__file__), "/usr/written"):
        assert run(f"open({path!r}, 'a')", walls).code == 1
    assert run(f"print(open({__file__!r}).read())", walls).code == 1 or sys.prefix in __file__


def test_the_walls_cannot_be_taken_down_from_inside(walls: Limits) -> None:
    climb = """
        import ctypes, os
        libc = ctypes.CDLL(None)
        print(libc.unshare(0x10000000), libc.umount2(b"/usr", 2), libc.mount(b"none", b"/usr", None, 4096 | 32, None))
        print(os.getuid() == 0 and libc.setuid(0) == 0 and libc.mount(b"none", b"/sandbox", b"tmpfs", 0, None) == 0)
    """
    assert run(textwrap.dedent(climb), walls).output == "-1 -1 -1\nFalse\n"


def test_a_program_dies_with_whoever_runs_it(limits: Limits) -> None:
    program = ours("import os, sys\nos.execv(sys.executable, ['an-orphan-OURS', '-c', 'import time; time.sleep(600)'])")
    code = (
        f"import sys; from reward.sandbox import *\nsys.executable = {sys.executable!r}\nrun({program!r}, {limits!r})"
    )
    caller = subprocess.Popen([PYTHON, "-c", code])
    for _ in range(300):
        if any(_is_it(path) for path in Path("/proc").glob("[0-9]*/cmdline")):
            break
        time.sleep(0.1)
    else:
        pytest.fail("the program did not start")
    caller.kill()
    caller.wait()
    assert left(ours("an-orphan-OURS")) == []


PYTHON = sys.executable
"""Ours, whatever a test puts in its place."""


def _is_it(path: Path) -> bool:
    """Not a command line that only quotes the name, as the caller's does."""
    return _read(path).startswith(ours("an-orphan-OURS").encode())


def test_a_machine_without_namespaces_is_said_with_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    child = tmp_path / "child.py"
    text = sandbox.CHILD.read_text().replace("LIBC.unshare(flags)", "LIBC.unshare(-1)")
    child.write_text(text)
    (tmp_path / "sandbox_kernel.py").write_text(sandbox.CHILD.with_name("sandbox_kernel.py").read_text())
    monkeypatch.setattr(sandbox, "CHILD", child)
    with pytest.raises(ConfigError, match=r"isolation: the sandbox cannot be built: unshare: .*`isolation: limits`"):
        run("print(1)", SMALL)


@pytest.mark.skipif(os.getuid() != 0 or not SYSTEM_PYTHON.exists(), reason="needs root, and Python for everybody")
def test_a_user_who_is_not_root_has_the_same_walls() -> None:
    """Root's programs run as nobody; those of others as themselves without rights, which is another way through."""
    program = (
        "import os, ctypes\nprint(os.getuid(), os.path.exists('/etc/passwd'), ctypes.CDLL(None).umount2(b'/usr', 2))\n"
        "made = 0\ntry:\n    while made < 99 and (made := made + 1) and os.fork(): pass\n"
        "except OSError: pass\nelse:\n    import time; time.sleep(9)\nprint(made)"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\nfrom reward.sandbox import *\n"
        f"done = run({program!r}, {SMALL!r})\nprint(done.output, done.error)"
    )
    command = [str(SYSTEM_PYTHON), "-B", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, user=12345, group=12345, extra_groups=[], cwd="/")
    if "Permission denied" in done.stderr or "No module named" in done.stderr:
        pytest.skip("the checkout is not everybody's to read")
    if "cannot be built" in done.stderr:
        pytest.skip("this machine lets only root make namespaces")
    assert done.stdout.split() == ["0", "False", "-1", "8"], done.stderr


# what no limit counts, and what is beside the program -----------------------------------------------------------------


def test_limits_alone_are_refused_for_what_is_not_ones_own() -> None:
    with pytest.raises(ConfigError, match=r"isolation: `limits` alone are for programs of your own.*trusted: true"):
        run("print(1)", replace(SMALL, isolation="limits"))


MEMORY = """
    import ctypes, os, mmap
    libc = ctypes.CDLL(None, use_errno=True)
    kept = 0
    for n in range(40):
        segment = libc.shmget(0, 16 << 20, 0o1600)
        kept += segment >= 0
    try:
        while kept < 80:
            file = os.memfd_create("x")
            os.write(file, bytes(1 << 20))
            kept += 1
    except OSError:
        pass
    try:
        os.ftruncate(0, 1 << 20)
        kept += 1000
    except OSError:
        pass
    print(kept, libc.msgget(0, 0o1600), libc.semget(0, 1, 0o1600))
"""


def test_no_memory_is_kept_that_no_limit_counts(limits: Limits) -> None:
    assert run(textwrap.dedent(MEMORY), limits).output == "0 -1 -1\n"


def test_calls_that_reach_far_into_the_kernel_are_refused(limits: Limits) -> None:
    program = """
        import ctypes, os, platform, socket
        libc = ctypes.CDLL(None, use_errno=True)
        place = platform.machine() == "aarch64"
        calls = {"ptrace": (101, 117), "bpf": (321, 280), "io_uring_setup": (425, 425), "keyctl": (250, 219),
                 "userfaultfd": (323, 282), "perf_event_open": (298, 241), "unshare": (272, 97), "setns": (308, 268)}
        print([name for name, numbers in calls.items()
               if libc.syscall(numbers[place], 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != 1])
        libc.syscall(56 if not place else 220, 0x10000000 | 17, 0, 0, 0, 0)
        print(ctypes.get_errno())
        try:
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
        except OSError as error:
            print("no netlink")
    """
    assert run(textwrap.dedent(program), limits).output == "[]\n1\nno netlink\n"


def test_ordinary_programs_do_not_notice(limits: Limits) -> None:
    program = """
        import asyncio, hashlib, json, multiprocessing, os, random, re, signal, subprocess, sys, tempfile, threading
        found = []
        thread = threading.Thread(target=found.append, args=(1,))
        thread.start()
        thread.join()
        found += subprocess.run([sys.executable, "-c", "print(2)"], capture_output=True, text=True).stdout.split()
        found.append(asyncio.run(asyncio.sleep(0, 3)))
        with tempfile.TemporaryDirectory(dir=".") as folder:
            open(folder + "/x", "w").write("4")
            os.rename(folder + "/x", folder + "/y")
            found.append(open(folder + "/y").read())
        signal.signal(signal.SIGALRM, lambda *_: found.append(5))
        os.kill(os.getpid(), signal.SIGALRM)
        print(found, os.path.exists("/dev/null"), len(os.urandom(4)))
    """
    assert run(textwrap.dedent(program), replace(limits, seconds=10)).output == "[1, '2', 3, '4', 5] True 4\n"


@pytest.fixture
def alone(limits: Limits) -> Limits:
    if limits.isolation != "limits":
        pytest.skip("a program with walls around it does not even see these")
    return limits


def test_limits_leave_the_users_files_alone(alone: Limits, tmp_path: Path) -> None:
    """In a folder that everybody may read and write, so that nothing but the sandbox is in the way."""
    for folder in [tmp_path, *tmp_path.parents[:2]]:
        folder.chmod(0o777)
    kept = tmp_path / "kept.txt"
    kept.write_text("a secret")
    kept.chmod(0o666)
    program = f"""
        import os, shutil, socket
        path, folder = {str(kept)!r}, {str(tmp_path)!r}
        def tried(do):
            try:
                return do()
            except OSError:
                return "refused"
        print({{tried(do) for do in (
            lambda: open(path).read(), lambda: open(path, "w"), lambda: open(path, "a"), lambda: os.remove(path),
            lambda: os.rename(path, path + "2"), lambda: os.link(path, "here"), lambda: os.truncate(path, 0),
            lambda: open(folder + "/new", "w"), lambda: os.mkdir(folder + "/new"), lambda: os.listdir(folder),
            lambda: os.chmod(path, 0), lambda: os.utime(path), lambda: os.symlink(path, folder + "/new"),
            lambda: open("/proc/self/environ").read(), lambda: os.listdir("/proc"), lambda: open("/etc/passwd").read(),
            lambda: socket.socket(), lambda: socket.socket(socket.AF_UNIX),
        )}})
    """
    assert run(textwrap.dedent(program), alone).output == "{'refused'}\n"
    assert kept.read_text() == "a secret" and [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
    assert kept.stat().st_mode & 0o777 == 0o666


def test_limits_leave_other_processes_alone(alone: Limits) -> None:
    """Its caller and another program of the sandbox: neither is signalled, looked into or limited."""
    import threading

    other = ours(
        "import os, time\nprint(os.getpid(), flush=True)\nopen('program-OURS', 'w')\ntime.sleep(4)\nprint('lives')"
    )
    found: list[sandbox.Outcome] = []
    thread = threading.Thread(target=lambda: found.append(run(other, alone)))
    thread.start()
    time.sleep(1.5)
    program = f"""
        import ctypes, os, resource, signal, sys
        for pid in [{os.getpid()}, os.getppid(), *map(int, sys.stdin.read().split())]:
            for do in (lambda: os.kill(pid, 0), lambda: os.kill(pid, 9), lambda: open(f"/proc/{{pid}}/environ").read(),
                       lambda: open(f"/proc/{{pid}}/mem", "rb"), lambda: open(f"/proc/{{pid}}/cwd/program.py").read(),
                       lambda: resource.prlimit(pid, resource.RLIMIT_CPU, (1, 1)),
                       lambda: os.setpriority(os.PRIO_PROCESS, pid, 19), lambda: os.sched_setaffinity(pid, [0])):
                try:
                    print(pid, do())
                except OSError:
                    pass
    """
    beside = [int(p.parent.name) for p in Path("/proc").glob("[0-9]*/cmdline") if b"program.py" in _read(p)]
    assert beside
    done = run(textwrap.dedent(program), alone, given=" ".join(map(str, beside)))
    thread.join()
    assert (done.output, done.error) == ("", "")
    assert found[0].output.split()[1:] == ["lives"]


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_each_program_of_roots_is_a_user_of_its_own(limits: Limits) -> None:
    if limits.isolation == "namespaces":
        pytest.skip("inside, each is called nobody")
    users = {run("import os; print(os.getuid(), os.getgid())", limits).output for _ in range(3)}
    assert len(users) == 3 and all(int(user.split()[0]) > 1 << 30 for user in users)


@pytest.mark.skipif(os.getuid() != 0 or not SYSTEM_PYTHON.exists(), reason="needs root, and Python for everybody")
def test_limits_hold_what_runs_as_the_very_user_who_trains(tmp_path: Path) -> None:
    """Where the user is the same, nothing but Landlock and the filter stands between the program and the trainer."""
    program = """
        import os, sys
        pid, path = sys.stdin.read().split()
        refused = 0
        for do in (lambda: os.kill(int(pid), 0), lambda: os.kill(os.getppid(), 0), lambda: os.chmod(path, 0),
                   lambda: open(path).read(), lambda: open(path, "w"), lambda: os.remove(path), lambda: os.utime(path),
                   lambda: os.truncate(path, 0), lambda: open(f"/proc/{pid}/environ").read()):
            try:
                do()
            except OSError:
                refused += 1
        print(os.getuid(), refused)
    """
    kept = Path("/tmp") / f"kept-{os.getpid()}"
    kept.write_text("a secret")
    os.chown(kept, 12345, 12345)
    limits = replace(SMALL, isolation="limits", trusted=True)
    code = (
        f"import os, sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\nfrom reward.sandbox import *\n"
        f"done = run({textwrap.dedent(program)!r}, {limits!r}, given=f'{{os.getpid()}} {kept}')\n"
        f"print(done.output, done.error, open({str(kept)!r}).read())"
    )
    command = [str(SYSTEM_PYTHON), "-B", "-c", code]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, user=12345, group=12345, extra_groups=[], cwd="/"
        )
        if "Permission denied" in done.stderr or "No module named" in done.stderr:
            pytest.skip("the checkout is not everybody's to read")
        assert done.stdout.split() == ["12345", "9", "a", "secret"], done.stderr
    finally:
        kept.unlink()
