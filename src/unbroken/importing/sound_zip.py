"""Foreign zips, read from end to end before anything in them is believed."""

from __future__ import annotations

import errno
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unbroken.errors import DamagedFile
from unbroken.store.checkpoint_reader import UNREADABLE

# trainers store or barely compress: a member beyond this is made to fill the memory
_RATIO_LIMIT, _SMALL = 100, 16 * 1024 * 1024


@contextmanager
def reading(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip open for reading; every way in which zipfile stumbles over altered bytes is DamagedFile."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.filelist and all(info.header_offset for info in archive.filelist):
                # members of a truncated zip are zips too (torch's), and the last of them passes for the whole file
                raise DamagedFile(f"{path.name} is damaged or truncated: its beginning is not that of a zip")
            yield archive
    except DamagedFile:
        raise
    except UNREADABLE as error:
        raise DamagedFile(f"{path.name} is damaged or truncated: {' '.join(str(error).split())}") from error
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise DamagedFile(f"{path.name} is damaged or truncated") from error


def require_sound(path: Path, archive: zipfile.ZipFile) -> None:
    """Check every member against its sum. Raises DamagedFile."""
    for info in archive.infolist():
        if info.file_size > _SMALL and info.file_size > _RATIO_LIMIT * info.compress_size:
            raise DamagedFile(
                f"{path.name}: member {info.filename} claims {info.file_size:,} bytes out of {info.compress_size:,}; not read"
            )
    altered = archive.testzip()
    if altered is not None:
        raise DamagedFile(f"{path.name} is damaged: the content of member {altered} is altered")
