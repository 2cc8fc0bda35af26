"""Ctrl-C ends a verb, at whatever moment it comes.

Python raises KeyboardInterrupt wherever the program stands. Inside a destructor, or in code that ignores every exception
(of which importing torch is full), it is printed or lost there, and the program goes on. So while something is imported
the process ends at once, as it may be killed at any moment anyway; and an interrupt that somebody swallowed is raised
again until it has come through.
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
STOPPED = "align: stopped; the same command goes on from here\n"
LOOK_SECONDS = 0.05
_SHOW_CURSOR = "\x1b[?25h"


class Interrupted(KeyboardInterrupt):
    """An interrupt of which one can tell whether it still is under way; a KeyboardInterrupt itself takes no weak reference."""


class _State:
    """What the process knows of interrupts: where its words go, and the last one raised."""

    terminal: int | None = None
    last: "weakref.ref[Interrupted] | None" = None
    watched = False
    arrived = False


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside the block Ctrl-C is ours. Nothing is changed where somebody else handles it, or it is ignored, as in the
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
    """Whether Ctrl-C was pressed: whatever error comes out then is its doing."""
    return _State.last is not None


def leave() -> NoReturn:
    """End the process, which has let go of what it held: half-imported libraries may crash when Python ends by itself."""
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
    """Where the last interrupt is gone and has not arrived, somebody swallowed it."""
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
    """The hook for what destructors raise, but for interrupts, which are raised again elsewhere."""

    def told(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, Interrupted):
            hook(unraisable)

    return told
