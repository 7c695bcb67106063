"""A run in Weights & Biases; without an account it is recorded offline in the run folder, for `wandb sync`."""

from __future__ import annotations

import netrc
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unbroken import logs
from unbroken.tracking.forwarder import Row, TrackedRun
from unbroken.tracking.wandb_files import last_step_on_disk

_FINISH_SECONDS = 30.0
_WRITE_INTERVAL, _WRITE_SECONDS = "x_transaction_log_flush_interval", 1.0


class WeightsAndBiases:
    """Fulfils `forwarder.Tracker`. Each leg that records offline makes a folder of its own, all with one run id."""

    name = "wandb"

    def __init__(self, folder: Path, project: str) -> None:
        self._folder = folder
        self._project = project
        self._run: Any = None
        self._last = -1
        self._token = ""

    def begin(self, run: TrackedRun) -> int | None:
        """As the protocol says. Nothing of the console, the code or the repository is recorded."""
        import wandb

        self._folder.mkdir(parents=True, exist_ok=True)
        self._token = run.token
        # before W&B makes the file of this leg
        on_disk = last_step_on_disk(self._folder, run.token)
        self._run = wandb.init(
            project=self._project,
            id=run.token,
            name=run.name,
            resume="allow",
            dir=str(self._folder),
            config=dict(run.config),
            mode=_mode(),
            settings=_settings(),
        )
        told = on_disk if self._run.offline else int(self._run.step) - 1
        self._last = -1 if told is None else told
        return told

    def log(self, rows: Sequence[Row]) -> None:
        """As the protocol says. W&B keeps a row back until the next one comes, unless told to commit it."""
        for step, values in rows:
            # W&B makes no row of nothing
            if step > self._last and values:
                self._run.log(values, step=step, commit=True)
                self._last = step

    def finish(self, complete: bool) -> None:
        """As the protocol says; a run that is not complete is resumed by the next leg."""
        self._run.finish(exit_code=0)
        # it returns before its service has written all, and the service writes no more once this process has ended
        until = time.monotonic() + _FINISH_SECONDS
        while self._run.offline and not self._is_written():
            if time.monotonic() > until:
                raise TimeoutError("its service has not written all rows")
            time.sleep(0.05)

    def _is_written(self) -> bool:
        on_disk = last_step_on_disk(self._folder, self._token)
        # a file that cannot be read tells nothing
        return on_disk is None or on_disk >= self._last


def _settings() -> Any:
    """W&B's service writes its file at intervals, and not at all when its parent dies: have it write soon, where it can be told."""
    import wandb

    soon: dict[str, Any] = {_WRITE_INTERVAL: _WRITE_SECONDS} if _WRITE_INTERVAL in wandb.Settings.model_fields else {}
    return wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True, **soon)


def _mode() -> Any:
    """None for what the user's environment says. Never ask for a key: nobody may be there to answer."""
    if os.environ.get("WANDB_MODE") or os.environ.get("WANDB_API_KEY") or _has_login():
        return None
    logs.checkpoint("wandb: no account is set up here, so the run is recorded offline; `wandb sync` sends it")
    return "offline"


def _has_login() -> bool:
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
