"""`python -m argilla_embedded HOME PORT`: serve Argilla from HOME on loopback, in the background.

Prints the server's process id and returns at once; the server goes on in a session of its own, and what it says is
in HOME/server.log. Secrets are read from HOME/secrets.json, so that they appear in no process listing.

`python -m argilla_embedded HOME PORT ADDRESS` serves at that address instead, in the foreground: for a container.
"""

import gc
import os
import shutil
import socket
import sys
from pathlib import Path

from argilla_embedded import logs, unused
from argilla_embedded.home import prepare_environment


def main(home: Path, port: int, address: str | None = None) -> None:
    if address is None:
        _go_to_the_background(home)
    os.chdir(home)
    listener = _bind(address or "127.0.0.1", port)
    logs.install(home / "server.log" if address is None else None)
    prepare_environment(home)
    _make_scratch(home / "tmp")
    _serve(listener)


def _go_to_the_background(home: Path) -> None:
    child = os.fork()
    if child:
        print(child, flush=True)
        os._exit(0)
    os.setsid()
    os.umask(0o077)
    nothing = os.open(os.devnull, os.O_RDONLY)
    out = os.open(home / "server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((nothing, 0), (out, 1), (out, 2)):
        os.dup2(source, target)


def _bind(address: str, port: int) -> socket.socket:
    """Taken before the slow imports, so that of two servers for one port the later fails at once."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    return listener


def _make_scratch(scratch: Path) -> None:
    """Argilla copies its 14 MB user interface into a new temporary folder at every start."""
    if scratch.exists():
        shutil.rmtree(scratch)
    scratch.mkdir(mode=0o700)
    os.environ["TMPDIR"] = str(scratch)


def _serve(listener: socket.socket) -> None:
    unused.leave_out()
    gc.disable()  # what an import makes stays, and looking through it at every turn takes a tenth of a start
    import uvicorn
    from argilla_embedded.app import app

    gc.freeze()
    gc.enable()
    config = uvicorn.Config(app, access_log=False, log_config=None, log_level="info", timeout_graceful_shutdown=5)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), int(sys.argv[2]), *sys.argv[3:4])
