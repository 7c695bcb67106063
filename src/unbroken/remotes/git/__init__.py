"""A branch of a git repository as a remote: objects are ordinary files under their names, with or without Git LFS."""

from unbroken.remotes.git.remote import GitRemote

__all__ = ["GitRemote"]
