"""What is refused before anything is simulated."""

from __future__ import annotations

from unbroken.errors import ConfigurationError


def require(condition: bool, message: str) -> None:
    """Raises ConfigurationError with `message` unless `condition` holds."""
    if not condition:
        raise ConfigurationError(message)
