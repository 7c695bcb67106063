"""The process of a training that is proved: the user's script or `unbroken train`, kept from writing into the user's folder.

    python -m unbroken.proving.child ORIGINAL COPY script PATH [ARGUMENTS]
    python -m unbroken.proving.child ORIGINAL COPY train TARGET [ARGUMENTS]

What Python code opens for writing, renames or removes in ORIGINAL is refused. Worker processes and C code are not watched.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading
import time
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGING = frozenset(
    {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.link", "os.symlink", "shutil.move"}
)


def guard(original: str, copy: str) -> None:
    """From here on no Python code of this process changes anything in `original`; `copy` may lie inside it."""

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = isinstance(mode, str) and any(letter in mode for letter in "wax+")
            if writes or (mode is None and isinstance(flags, int) and flags & _WRITING):
                refuse(path)
        elif event in _CHANGING:
            for path in arguments[:2]:
                refuse(path)

    def refuse(path: Any) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        place = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - pathlib would raise audit events of its own
        inside = place == original or place.startswith(original + os.sep)
        if inside and not place.startswith(copy + os.sep) and f"{os.sep}__pycache__" not in place:
            raise PermissionError(
                f"unbroken prove: the training wants to write {place}, in the folder that it was started from; "
                "give it a path relative to the working folder"
            )

    sys.addaudithook(watch)


def end_with(parent: int) -> None:
    """End this process when its parent is gone: a proof that was killed must leave no training behind."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    if hasattr(os, "getppid") and os.name != "nt":
        threading.Thread(target=watch, daemon=True).start()


def run_script(path: str, arguments: list[str]) -> None:
    """Run a script as `python path arguments` does."""
    sys.argv = [path, *arguments]
    sys.path[0] = str(Path(path).parent)
    runpy.run_path(path, run_name="__main__")


def run_command(arguments: list[str]) -> None:
    """Run `unbroken train arguments`."""
    sys.argv = ["unbroken", "train", *arguments]
    runpy.run_module("unbroken", run_name="__main__")


def main() -> None:
    """`python -m unbroken.proving.child`."""
    end_with(os.getppid())
    original, copy, what, *arguments = sys.argv[1:]
    if original:
        guard(original, copy)
    if what == "script":
        run_script(arguments[0], arguments[1:])
    else:
        run_command(arguments)


if __name__ == "__main__":
    main()
