"""Drop-ins for Stable-Baselines3 scripts: the same guarantees as the command, in a user's own ten lines."""

from unbroken.capture.environments import CaptureWrapper
from unbroken.learners.script import RotatingCheckpointCallback, find_latest_checkpoint, resume_or_create

__all__ = ["CaptureWrapper", "RotatingCheckpointCallback", "find_latest_checkpoint", "resume_or_create"]
