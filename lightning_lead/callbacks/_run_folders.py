"""Where the checkpoints of a run of the command line are: beside its log, and linked to from where the recipe says.

    runs/digits/checkpoints                                      `dirpath` of the recipe's ModelCheckpoint
    runs/digits/lightning_logs/version_3/checkpoints/last.ckpt   the file
    runs/digits/checkpoints/last.ckpt                            a link to it, from the run's first save on

So a run neither moves nor writes over what another one has saved. A logger without folders of its own per run, or none,
makes it runs/digits/checkpoints.1, and so on.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from lightning_lead._files import UNFINISHED, set_aside
from lightning_lead._lightning import Callback, ModelCheckpoint, Trainer, rank_zero_info, rank_zero_warn
from lightning_lead.callbacks.segment import SegmentCheckpoint
from lightning_lead.checkpoints._whole import write_whole

__all__ = ["RunFolders", "last_checkpoint", "local_folders"]


class _Place(NamedTuple):
    """Of a run's checkpoints: a folder that has a run's files, and a number where it has those of several.

    No such folder: beside the recipe's folders; without a number the recipe's folders, where other programs save.
    """

    home: Path | None
    number: int

    def of(self, folder: Path, name: str) -> Path:
        """The run's folder for a folder of the recipe."""
        return (self.home or folder.parent) / (f"{name}.{self.number}" if self.number else name)


def local_folders(trainer: Any) -> dict[Path, list[ModelCheckpoint]]:
    """Folders of this machine that a recipe has named for checkpoints, and who saves there."""
    found: dict[Path, list[ModelCheckpoint]] = {}
    for callback in trainer.callbacks:
        path = callback.dirpath if isinstance(callback, ModelCheckpoint) else None
        if path is not None and "://" not in str(path):
            found.setdefault(Path(path), []).append(callback)
    return found


def last_checkpoint(trainer: Any) -> Path | None:
    """What Lightning takes for `ckpt_path="last"`: the newest in those folders."""
    found = [path for folder in local_folders(trainer) for path in folder.glob("last*.ckpt") if path.exists()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


class RunFolders(Callback):
    """Gives each `ModelCheckpoint` a folder of the run, and links to what it saves from the folder that it had.

    It stands before them. A `SegmentCheckpoint`, whose folder is that of one run, stays where it is, and the others
    save there. At the end of a fit the last game step is saved where `save_last` promises it.

    Args:
        resumed: the checkpoint that the run goes on from: in the same folder, if it is that of such a run.
    """

    def __init__(self, resumed: Path | None) -> None:
        self.resumed = resumed
        self._names: dict[Path, str] = {}  # of the recipe's folders
        self._runs: dict[Path, Path] = {}  # folder of the recipe -> of the run
        self._first_step = 0

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Choose folders on rank 0, from which Lightning tells the others; nothing is made or moved yet."""
        write_whole(trainer)
        if not trainer.is_global_zero:
            return
        savers, segments = dict[Path, list[ModelCheckpoint]](), list[Path]()
        for folder, found in local_folders(trainer).items():
            if any(isinstance(saver, SegmentCheckpoint) for saver in found):
                segments.append(folder)
            else:
                savers[folder] = found
        names = [folder.name for folder in savers]
        self._names = {f: f.name if names.count(f.name) == 1 else f"{f.name}-{k}" for k, f in enumerate(savers)}
        place = self._place(getattr(trainer.logger, "log_dir", None), segments)
        for folder, found in savers.items():
            self._runs[folder] = place.of(folder, self._names[folder])
            for saver in found:
                saver.dirpath = str(self._runs[folder])
        trainer.save_checkpoint = partial(self._save, trainer.save_checkpoint)  # type: ignore[method-assign]

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Note where the run begins."""
        self._first_step = trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Save the last game step, which Lightning does only where nothing has been saved before."""
        callbacks: Sequence[Any] = trainer.callbacks  # type: ignore[attr-defined]
        for saver in callbacks:
            if not isinstance(saver, ModelCheckpoint) or isinstance(saver, SegmentCheckpoint):
                continue
            if saver.save_last and trainer.global_step not in (self._first_step, saver._last_global_step_saved):
                saver._last_checkpoint_saved = ""  # nothing to link to, where save_last="link"
                saver._save_last_checkpoint(trainer, saver._monitor_candidates(trainer))

    def _place(self, log: str | None, segments: Sequence[Path]) -> _Place:
        """The place of the run that goes on, or else the first that is free."""
        home = segments[0].resolve() if segments else None if log is None else Path(log).resolve()
        free = next(
            number
            for number in count(0 if home is not None else 1)
            if not any(_Place(home, number).of(*item).exists() for item in self._names.items())
        )
        if self.resumed is None:
            return _Place(home, free)
        run = self.resumed.resolve().parent
        if segments and run == home:
            return _Place(home, max(0, free - 1))
        for folder, name in self._names.items():
            if run == folder.resolve():
                return _Place(None, 0)
            known = re.fullmatch(rf"{re.escape(name)}(?:\.(\d+))?", run.name)
            if known is None:
                continue
            number = int(known[1] or 0)
            if run.parent == folder.parent.resolve():
                return _Place(None, number)
            linked = self.resumed.parent.resolve() == folder.resolve()
            sibling = home is not None and not segments and run.parent.parent == home.parent
            if linked or sibling or run.parent == home:
                return _Place(run.parent, number)
        return _Place(home, free)

    def _save(self, save: Callable[..., None], *arguments: Any, **settings: Any) -> None:
        save(*arguments, **settings)
        for folder, run in self._runs.items():
            if folder != run:
                self._link(folder, run)

    def _link(self, folder: Path, run: Path) -> None:
        """Let names in the folder stand for the run's files, and no more for those of earlier runs."""
        wanted = {path.name: path for path in run.glob("*.ckpt")}
        if not wanted:
            return
        try:
            in_the_way = (folder / name for name in wanted)
            aside = set_aside(path for path in in_the_way if path.exists() and not path.is_symlink())
            if aside is not None:
                rank_zero_info(f"{folder} holds checkpoints of an earlier run, which are now in {aside}")
            for name, path in wanted.items():
                self._point(folder / name, path)
            for path in folder.glob("*.ckpt"):
                of = Path(os.path.realpath(path)).parent.name
                if path.is_symlink() and path.name not in wanted and of.startswith(self._names[folder]):
                    path.unlink()
        except OSError as error:
            rank_zero_warn(f"{folder} has no links to the run's checkpoints, which are in {run} (got {error})")

    @staticmethod
    def _point(link: Path, path: Path) -> None:
        target = os.path.relpath(path, link.parent.resolve())
        if link.is_symlink() and os.readlink(link) == target:
            return
        draft = link.with_name(f"{UNFINISHED}{secrets.token_hex(6)}-{link.name}")
        draft.symlink_to(target)
        draft.replace(link)
