"""What the service does to uploaded archives: their members take their place."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile

_TARS = (".tar", ".tar.gz", ".tgz")


def unpacked(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files of a version as they lie there afterwards; what only looks like an archive stays as it is."""
    found: dict[str, bytes] = {}
    for name, content in files.items():
        try:
            found |= _members(name, content)
        except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError):
            found[name] = content
    return found


def _members(name: str, content: bytes) -> dict[str, bytes]:
    lower = name.lower()
    if lower.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {member.filename: archive.read(member) for member in archive.infolist() if not member.is_dir()}
        return {f"{name[:-4]}/{member}": inside for member, inside in members.items()}
    ending = next((ending for ending in _TARS if lower.endswith(ending)), "")
    if ending:
        return _tar_members(name.removesuffix(name[-len(ending) :]), content)
    if lower.endswith(".gz"):
        return {name[:-3]: gzip.decompress(content)}
    return {name: content}


def _tar_members(folder: str, content: bytes) -> dict[str, bytes]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member)
            if file is not None:
                found[f"{folder}/{member.name}"] = file.read()
    return found
