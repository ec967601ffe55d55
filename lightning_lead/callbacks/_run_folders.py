"""Folders of the checkpoints of runs of the command line: one for each run, within the one that the recipe names.

    runs/digits/checkpoints                       `dirpath` of the recipe's ModelCheckpoint
    runs/digits/checkpoints/version_3/last.ckpt   the file; the log of the same run is .../version_3 as well
    runs/digits/checkpoints/last.ckpt             a link to it, from the run's first save on

So a run neither moves nor writes over what another one has saved, and the names in the recipe's folder are those of the
newest run.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any

from lightning_lead._files import UNFINISHED, set_aside
from lightning_lead._lightning import Callback, ModelCheckpoint, Trainer, rank_zero_info, rank_zero_warn
from lightning_lead.callbacks.segment import SegmentCheckpoint
from lightning_lead.checkpoints._whole import use_whole_files

__all__ = ["RunFolders", "last_checkpoint", "local_folders"]


def local_folders(trainer: Any) -> dict[Path, list[ModelCheckpoint]]:
    """Folders of this machine that a recipe has named for checkpoints, and who saves there."""
    found: dict[Path, list[ModelCheckpoint]] = {}
    for callback in trainer.callbacks:
        path = callback.dirpath if isinstance(callback, ModelCheckpoint) else None
        if path is not None and "://" not in str(path):
            found.setdefault(Path(path).resolve(), []).append(callback)
    return found


def last_checkpoint(trainer: Any) -> Path | None:
    """Return the newest in those folders, which Lightning takes for `ckpt_path="last"`."""
    found = [path for folder in local_folders(trainer) for path in folder.glob("last*.ckpt") if path.exists()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


class RunFolders(Callback):
    """Gives each `ModelCheckpoint` a folder of the run, and links to what it saves from the folder that it had.

    It stands before them. A `SegmentCheckpoint`, whose folder is that of one run, stays where it is. At the end of a
    fit the last game step is saved where `save_last` promises it.

    Args:
        resumed: the checkpoint that the run goes on from: in the same folder, if it is that of such a run.
    """

    def __init__(self, resumed: Path | None) -> None:
        self.resumed = resumed
        self._runs: dict[Path, Path] = {}  # folder of the recipe -> of the run
        self._first_step = 0

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Choose folders on rank 0, from which Lightning tells the others; nothing is made or moved yet."""
        use_whole_files(trainer)
        if stage != "fit" or self._runs or not trainer.is_global_zero:
            return
        found: dict[Path, list[Any]] = dict(local_folders(trainer))
        segments = [folder for folder in found if any(isinstance(s, SegmentCheckpoint) for s in found[folder])]
        folders = [folder for folder in found if folder not in segments]
        resumed = None if self.resumed is None else self.resumed.resolve().parent
        name = self._name(getattr(trainer.logger, "log_dir", None), resumed, folders, segments)
        for folder in folders:
            self._runs[folder] = folder / name
            for saver in found[folder]:
                saver.dirpath = str(folder / name)
        for folder in segments:
            for saver in found[folder]:
                saver.goes_on = resumed in self._runs.values() and name.startswith(folder.name)
        trainer.save_checkpoint = partial(self._save, trainer.save_checkpoint)  # type: ignore[method-assign]

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Note where the run begins."""
        self._first_step = trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Save the last game step, which Lightning does only where nothing has been saved before."""
        savers: list[Any] = [c for c in trainer.callbacks if isinstance(c, ModelCheckpoint)]  # type: ignore[attr-defined]
        if any(isinstance(saver, SegmentCheckpoint) for saver in savers):  # which has saved it
            return
        for saver in savers:
            if saver.save_last and trainer.global_step not in (self._first_step, saver._last_global_step_saved):
                saver._last_checkpoint_saved = ""  # nothing to link to, where save_last="link"
                saver._save_last_checkpoint(trainer, saver._monitor_candidates(trainer))

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Drop links to what has been removed after the last save, and follow no more saves."""
        self._link_all()
        vars(trainer).pop("save_checkpoint", None)

    @staticmethod
    def _name(log: str | None, resumed: Path | None, folders: Sequence[Path], segments: Sequence[Path]) -> str:
        """The name of the run's folders; "" of one that goes on where another program has saved."""
        stem = segments[0].name if segments else "version" if log is None else Path(log).name
        names = chain([] if stem == "version" else [stem], (f"{stem}_{k}" for k in count()))
        last = stem
        for name in names:
            if not any((folder / name).exists() for folder in folders):
                break
            last = name
        if resumed in folders:
            return ""
        if resumed is not None and resumed.parent in folders:
            return resumed.name
        return last if resumed in segments else name

    def _save(self, save: Callable[..., None], *arguments: Any, **settings: Any) -> None:
        save(*arguments, **settings)
        self._link_all()

    def _link_all(self) -> None:
        for folder, run in self._runs.items():
            if folder != run:
                self._link(folder, run)

    def _link(self, folder: Path, run: Path) -> None:
        """Let names in the folder stand for the run's files, and no more for those of earlier runs."""
        wanted = {path.name: path for path in run.glob("*.ckpt")}
        try:
            in_the_way = [folder / name for name in wanted]
            aside = set_aside(path for path in in_the_way if path.exists() and not path.is_symlink())
            if aside is not None:
                rank_zero_info(f"{folder} holds checkpoints of an earlier run, which are now in {aside}")
            for name, path in wanted.items():
                self._point(folder / name, path)
            for path in folder.glob("*.ckpt") if wanted else ():
                if path.is_symlink() and path.name not in wanted and path.resolve().parent.parent == folder:
                    path.unlink()
        except OSError as error:
            rank_zero_warn(f"{folder} has no links to the run's checkpoints, which are in {run} (got {error})")

    @staticmethod
    def _point(link: Path, path: Path) -> None:
        target = os.path.relpath(path, link.parent)
        if link.is_symlink() and os.readlink(link) == target:
            return
        draft = link.with_name(f"{UNFINISHED}{secrets.token_hex(6)}-{link.name}")
        draft.symlink_to(target)
        draft.replace(link)
