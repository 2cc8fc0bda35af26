"""Ctrl-C ends a verb, whenever it comes.

Python raises KeyboardInterrupt wherever the program is. Inside a destructor, or in code that ignores every exception
(common while torch is imported), it is printed or lost, and the program continues. So during an import the process ends
at once, which is safe because it may be killed at any moment anyway; and an interrupt that other code swallowed is
raised again until it gets through.
"""

import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

EXIT_INTERRUPTED = 130
STOPPED = "align: stopped; run the same command again to continue\n"
LOOK_SECONDS = 0.05
_SHOW_CURSOR = "\x1b[?25h"


class Interrupted(KeyboardInterrupt):
    """An interrupt that can be tracked by a weak reference, which a plain KeyboardInterrupt does not allow."""


class _State:
    """The process's state of interrupts: where messages go, and the last interrupt raised."""

    terminal: int | None = None
    last: "weakref.ref[Interrupted] | None" = None
    watched = False
    arrived = False


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside the block, align handles Ctrl-C. Nothing changes if other code handles it, or if it is ignored, as in the
    background of a shell."""
    ours = (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
        and threading.current_thread() is threading.main_thread()
    )
    if not ours:
        yield
        return
    _State.terminal, hook = os.dup(2), sys.unraisablehook  # fd 2 itself may come to lead into a log
    signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = _unless_interrupted(hook)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = hook
        os.close(_State.terminal)
        _State.terminal, _State.last, _State.arrived = None, None, False


def was_interrupted() -> bool:
    """Whether Ctrl-C was pressed: any error after that is caused by it."""
    return _State.last is not None


def leave() -> NoReturn:
    """End the process, which holds no resources any more: half-imported libraries may crash in a normal exit."""
    _State.arrived = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # whoever read it has gone, or it is closed
            continue
    _end()


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _importing(frame):
        _end()
    raised = Interrupted()
    _State.last = weakref.ref(raised)
    if not _State.watched:
        _State.watched = True
        threading.Thread(target=_raise_again, daemon=True).start()
    try:
        raise raised
    finally:
        del raised  # else it and its own trace keep each other alive, and nobody would see it go


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _raise_again() -> None:
    """If the last interrupt is gone and has not arrived, some code swallowed it: raise it again."""
    while not _State.arrived:
        time.sleep(LOOK_SECONDS)
        if _State.last is not None and _State.last() is None and not _State.arrived:
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGINT)  # wakes it where it waits, too
    _State.watched = False


def _end() -> NoReturn:
    terminal = 2 if _State.terminal is None else _State.terminal
    try:
        os.write(terminal, ((_SHOW_CURSOR if os.isatty(terminal) else "") + STOPPED).encode())
    finally:
        os._exit(EXIT_INTERRUPTED)


def _unless_interrupted(hook: Any) -> Any:
    """The hook for exceptions in destructors, except for interrupts, which are raised again elsewhere."""

    def told(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, Interrupted):
            hook(unraisable)

    return told
