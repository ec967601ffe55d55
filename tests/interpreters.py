"""Interpreters that have imported some libraries and nothing else, for tests of what further code imports.

One process for each set of libraries imports them once, and each piece of code runs in a fork of it. Those of
`processes` have imported nearly everything.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["run_after"]

_PARENT = """
import importlib, json, os, sys, traceback
for name in sys.argv[1:]:
    importlib.import_module(name)
print("ready", flush=True)
for line in sys.stdin:
    code, arguments, environment, files = json.loads(line)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for number, file in enumerate(files):
                os.dup2(os.open(file, os.O_WRONLY), number + 1)
            os.environ.clear()
            os.environ.update(environment)
            sys.argv = ["-c", *arguments]
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@functools.cache
def _parent(libraries: tuple[str, ...]) -> subprocess.Popen[str]:
    """The process that has imported them, started on first use, until this one ends."""
    command = [sys.executable, "-c", _PARENT, *libraries]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(parent.communicate)  # at the end of its input it ends
    assert parent.stdout.readline() == "ready\n"
    return parent


def run_after(
    libraries: Sequence[str], code: str, *arguments: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What `python -c code *arguments` does where some libraries have been imported already.

    Args:
        libraries: names of modules, imported in this order; none for an interpreter that has imported nothing.
        code: to run as `__main__`.
        arguments: of `sys.argv`.
        env: the whole environment; default that of this process. The libraries have seen that of the first call.
    """
    parent = _parent(tuple(libraries))
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr")]
        for file in files:
            file.touch()
        request = (code, arguments, dict(os.environ if env is None else env), list(map(str, files)))
        print(json.dumps(request), file=parent.stdin, flush=True)
        status = int(parent.stdout.readline())
        return subprocess.CompletedProcess(code, status, *(file.read_text() for file in files))
