"""What ranks no longer do to the end of the process, so that a test of ranks can be seen to fail.

`mock.patch.object` refuses a name that a module no longer has; an assignment would change nothing, in silence.
"""

from __future__ import annotations

from types import ModuleType
from unittest import mock

from lightning_lead.training._rank_watch import RankWatch

__all__ = ["stop_rank_watch", "stop_reductions"]


def stop_reductions(module: ModuleType) -> None:
    """Leave what `module` averages over ranks as each rank has it, and let weights drift apart unseen."""
    mock.patch.object(module, "mean_over_ranks", return_value=lambda vector: vector).start()
    stop_rank_watch()


def stop_rank_watch() -> None:
    """Compare nothing between ranks."""
    mock.patch.object(RankWatch, "put_first", return_value=None).start()
