"""Starts a run of a comparison, which ends when the comparison does, however that ends.

python -m lightning_lead.compare._start FOLDER FINGERPRINT ARGUMENTS-OF-FIT...

Its standard input is a pipe that nobody writes to: the system closes it when the comparison is gone. That is looked at
before torch is imported, which takes seconds.
"""

from __future__ import annotations

import os
import stat
import sys
import threading

__all__ = ["end_with_the_comparison"]


def end_with_the_comparison() -> None:
    """From now on, end this process when its standard input is at its end, if that is a pipe."""
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    while os.read(0, 1024):
        pass
    os.write(2, b"the comparison has ended, and this run of it as well\n")
    os._exit(1)  # at once: what it was writing is not there in half, and the rest it does again


if __name__ == "__main__":
    end_with_the_comparison()
    from lightning_lead.compare.worker import main

    main(sys.argv[1:])
