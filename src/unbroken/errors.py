"""Every error a user can meet, as one tree with exit codes.

    UnbrokenError                         1   also: stopped before the first checkpoint
    ├── UsageError (ValueError)           2   a wrong word on the command line or in a configuration
    │   ├── ConfigurationError            2   unknown key, wrong type, value out of range
    │   └── UnknownTarget                 2   no such environment, module or file
    ├── IncompatibleRun (ValueError)     65   the stored run and the configuration do not fit
    ├── DamagedFile (ValueError)         65   a file fails its checks
    ├── NotFound (FileNotFoundError)     66   no such run or checkpoint
    ├── RunLocked (BlockingIOError)      69   another process is carrying the run
    ├── CaptureError (TypeError)         70   a state that cannot be turned into plain data
    ├── StorageError (OSError)           74   storage fails at start, or no checkpoint could be saved
    ├── RemoteError (OSError)             74   a remote fails at something
    │   ├── RemoteUnreachable             68   nothing answers there within the time-out (also ConnectionError)
    │   └── RemoteRefused                 77   the remote wants other credentials, or forbids it (also PermissionError)
    ├── StoppedEarly                     75   stopped with a valid checkpoint: run the same command again
    └── MissingExtra (ImportError)       78   an optional package is not installed

    Not errors: 0 the target is reached, 4 a callback of the user's returned False and so ended the training before its target
    (with a checkpoint there; nothing says that running it again would go further).

A message says in one or two lines what is wrong and what to do. Codes follow BSD's sysexits.h where it has one.
"""


class UnbrokenError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command exits with."""

    exit_code = 1


class UsageError(UnbrokenError, ValueError):
    """What the user typed cannot be carried out."""

    exit_code = 2


class ConfigurationError(UsageError):
    """A configuration key is unknown, of a wrong type or out of its range."""


class UnknownTarget(UsageError):
    """The training target names no environment, module or file."""


class IncompatibleRun(UnbrokenError, ValueError):
    """The stored run cannot continue under the current configuration."""

    exit_code = 65


class DamagedFile(UnbrokenError, ValueError):
    """A file is truncated, altered or not what its name says."""

    exit_code = 65


class UntrustworthyComparison(UnbrokenError, ValueError):
    """The arms of a comparison are not comparable, or one of them is not what it says."""

    exit_code = 65


class NotFound(UnbrokenError, FileNotFoundError):
    """A run or a checkpoint that was asked for does not exist."""

    exit_code = 66


class RunLocked(UnbrokenError, BlockingIOError):
    """Another living process carries this run."""

    exit_code = 69


class CaptureError(UnbrokenError, TypeError):
    """A live value has no plain-data form, or plain data does not fit the live value."""

    exit_code = 70


class StorageError(UnbrokenError, OSError):
    """The run folder cannot be written or its checkpoints read at start, or a leg ends and nothing could be saved.

    Failures in between only warn.
    """

    exit_code = 74


class RemoteError(UnbrokenError, OSError):
    """A remote cannot do what was asked of it. Training never meets it: what copies only warns."""

    exit_code = 74


class RemoteUnreachable(RemoteError, ConnectionError):
    """Nothing answers at the remote's address within the time-out."""

    exit_code = 68


class RemoteRefused(RemoteError, PermissionError):
    """The remote wants credentials that it has not got, or forbids the operation."""

    exit_code = 77


class StoppedEarly(UnbrokenError):
    """Training stopped before its target and left a valid checkpoint."""

    exit_code = 75


class MissingExtra(UnbrokenError, ImportError):
    """An optional dependency is needed and not installed."""

    exit_code = 78
