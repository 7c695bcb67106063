"""The checkpoint container: an ordinary zip whose last member and comment say that it is complete.

Writing is in `checkpoint_writer`, reading and verifying in `checkpoint_reader`; this is the name to import from.
"""

from unbroken.store.checkpoint_reader import CheckpointFile, read_manifest
from unbroken.store.checkpoint_writer import (
    MANIFEST,
    CheckpointInfo,
    CheckpointWriter,
    ForeignFile,
    MemberWriter,
    NewerFormat,
    write_checkpoint,
)

__all__ = [
    "MANIFEST",
    "CheckpointFile",
    "CheckpointInfo",
    "CheckpointWriter",
    "ForeignFile",
    "MemberWriter",
    "NewerFormat",
    "read_manifest",
    "write_checkpoint",
]
