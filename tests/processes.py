"""Python processes that do not begin with their imports.

A process that imports Lightning computes for seven seconds before its first line, several times what a test wants of
it. Those here are forks of one process that has imported it, one for each worker of pytest; their arguments, folder,
environment, output, `__main__` and exit status are their own, and Python processes that they start are forks of them.
Not for a test of what is imported, or from where.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Mapping, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any

__all__ = ["Process", "end_ranks", "run", "run_ranks", "spawned"]

TESTS = Path(__file__).parent
_forks = multiprocessing.get_context("forkserver")
_heavy = ["torchmetrics.image.fid", "pytorch_lightning.cli", "jsonargparse", "matplotlib.pyplot", "scipy.linalg"]
_own = [f"lightning_lead.{name}" for name in ("gan", "callbacks", "data", "analysis")]
_forks.set_forkserver_preload(_heavy + _own)


class Process:
    """What `subprocess.Popen([sys.executable, *command])` is, of a fork.

    Args:
        command: a script and its arguments, or `-m` and a module, or `-c` and code.
        cwd: folder to start in.
        env: the whole environment; default that of this process.
        stdout: file to append to; default none.
        stderr: the same; `subprocess.STDOUT` for the same file.
        start_new_session: as of `subprocess.Popen`.
    """

    def __init__(
        self,
        command: Sequence[Any],
        *,
        cwd: Any = None,
        env: Mapping[str, str] | None = None,
        stdout: Any = None,
        stderr: Any = None,
        start_new_session: bool = False,
    ) -> None:
        files = [_path(file) for file in (stdout, stderr)]
        environment = dict(os.environ if env is None else env)
        settings = (list(map(str, command)), str(cwd or Path.cwd()), environment, files, start_new_session)
        self._session = start_new_session
        self._process = _forks.Process(target=_become, args=settings)
        self._process.start()
        self.pid: int = self._process.pid

    @property
    def sentinel(self) -> int:
        """Ready to read when the process has ended."""
        return self._process.sentinel

    def wait(self, timeout: float | None = None) -> int:
        """The exit status; minus the signal's number where that ended it."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a fork", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """To this process alone."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it now, if it has not ended, and what it has started in its session."""
        if self._process.is_alive():
            with contextlib.suppress(ProcessLookupError):  # it has no session yet
                if self._session:
                    os.killpg(self.pid, signal.SIGKILL)
            self._process.kill()
            self._process.join()


def spawned(process: Any) -> Any:
    """What starts a `multiprocessing` process of the method "spawn", as a fork of the process with the imports."""
    return _forks.Process._Popen(process)


def _path(file: Any) -> str:
    """Of a path or an open file; "" for the other stream's."""
    if file is None or file == subprocess.DEVNULL:
        return os.devnull
    return "" if file == subprocess.STDOUT else os.path.abspath(file if isinstance(file, str | Path) else file.name)


def _become(
    command: list[str], cwd: str, environment: dict[str, str], files: list[str], start_new_session: bool
) -> None:
    """In the fork: run the command as a new interpreter would."""
    gc.freeze()  # what was imported stays
    if start_new_session:
        os.setsid()
    os.chdir(cwd)
    out = os.open(files[0], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    error = os.open(files[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT) if files[1] else out
    os.dup2(out, 1)
    os.dup2(error, 2)
    sys.path[:] = [entry for entry in sys.path if entry and not Path(entry).resolve().is_relative_to(TESTS)]
    subprocess.Popen = _Popen  # type: ignore[misc]
    multiprocessing.context.ForkServerProcess._Popen = staticmethod(multiprocessing.context.ForkProcess._Popen)
    _run(command, environment)


def _run(command: list[str], environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in a shell's background job it is ignored
    cwd = str(Path.cwd())
    what, *rest = command
    if what == "-m":
        sys.argv = rest
        sys.path.insert(0, cwd)
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif what == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path.insert(0, "")
        sys.modules["__main__"] = module = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(module))
    else:
        sys.argv = command
        sys.path.insert(0, str(Path(what).resolve().parent))
        runpy.run_path(what, run_name="__main__")


class _Popen(subprocess.Popen[Any]):
    """`subprocess.Popen` in a fork: another Python process is a fork of the one that starts it, and its child."""

    def __init__(self, args: Any, *, env: Mapping[str, str] | None = None, **settings: Any) -> None:
        if not isinstance(args, str) and args[0] == sys.executable:
            command = [str(part) for part in args[1:] if part != "-u"]
            settings["preexec_fn"] = functools.partial(_instead, command, dict(os.environ if env is None else env))
        super().__init__(args, env=env, **settings)


def _instead(command: list[str], environment: dict[str, str]) -> None:
    """In place of a new interpreter, which would have no open files of this one, and none of its signal handlers."""
    status: Any = 1
    try:
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)
        _run(command, environment)
        status = 0
    except SystemExit as end:
        status = 0 if end.code is None else end.code
        if not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run(
    command: Sequence[Any], *, cwd: Any = None, env: Mapping[str, str] | None = None, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """What `subprocess.run([sys.executable, *command], capture_output=True, text=True)` is, of a fork.

    Args:
        command: see `Process`.
        cwd: folder to start in.
        env: the whole environment; default that of this process.
        timeout: seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("stdout", "stderr")]
        for stream in streams:
            stream.touch()
        process = Process(command, cwd=cwd, env=env, stdout=streams[0], stderr=streams[1], start_new_session=True)
        try:
            status = process.wait(timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess(list(command), status, *(stream.read_text() for stream in streams))


def run_ranks(count: int, command: Sequence[Any], *, timeout: float) -> None:
    """The same script on several ranks, with what torchrun says to each; fails with what those that failed have said.

    Args:
        count: of ranks.
        command: see `Process`.
        timeout: seconds for all.
    """
    ends = end_ranks(count, command, timeout=timeout, together=True)
    said = "\n".join(output[-4000:] for _, output in ends)
    assert all(status is not None for status, _ in ends) or any(status for status, _ in ends), (
        f"not done after {timeout} s\n{said}"
    )
    assert [status for status, _ in ends] == [0] * count, f"{[status for status, _ in ends]}\n{said}"


def end_ranks(
    count: int, command: Sequence[Any], *, timeout: float, together: bool = False
) -> list[tuple[int | None, str]]:
    """The same script on several ranks, as `run_ranks`; how each of them ended, and what it said.

    Args:
        count: of ranks.
        command: see `Process`.
        timeout: seconds for all.
        together: end all of them when one has failed.

    Returns:
        The exit status of each, or None where it had not ended, and its output.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "GROUP_RANK": 0, "TORCHELASTIC_RUN_ID": "here"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder, f"rank{rank}") for rank in range(count)]
        started: list[Process] = []
        statuses: dict[int, int] = {}
        try:
            for rank, log in enumerate(logs):
                own = {name: str(value) for name, value in (common | {"RANK": rank, "LOCAL_RANK": rank}).items()}
                settings = {"stdout": log, "stderr": subprocess.STDOUT, "start_new_session": True}
                started.append(Process(command, env={**os.environ, **own}, **settings))
            end = time.monotonic() + timeout  # the first fork also waits for the imports
            waiting = {process.sentinel: rank for rank, process in enumerate(started)}
            while waiting and not (together and any(statuses.values())):
                ready = connection.wait([*waiting], timeout=max(0.0, end - time.monotonic()))
                if not ready:
                    break
                for rank in [waiting.pop(sentinel) for sentinel in ready]:
                    statuses[rank] = started[rank].wait()
        finally:
            for process in started:  # the others would wait for one that failed
                process.kill()
        return [(statuses.get(rank), log.read_text() if log.exists() else "") for rank, log in enumerate(logs)]
