"""Environment wrappers that make exact resume possible where an environment alone does not; for `environment.wrappers`.

They change what is trained, so nobody but the user puts them there. They know nothing of the rest of this package.
"""

from __future__ import annotations

import functools
from typing import Any

import gymnasium


class FreshWorld(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Every episode of a Box2D environment in a new `b2World`, as LunarLander has it.

    BipedalWalker keeps one world for all its episodes, and the order of the world's memory, left by the episodes before,
    decides the order in which contacts are solved and so the last bits. Raises TypeError for an environment without a world.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        base: Any = env.unwrapped
        if type(getattr(base, "world", None)).__name__ != "b2World":
            raise TypeError(f"{type(base).__name__} has no attribute world that is a Box2D world")
        # in the environment itself: a replay resets it without its wrappers
        base.reset = functools.partial(_reset_in_new_world, base)


def _reset_in_new_world(
    env: Any, *, seed: int | None = None, options: dict[str, Any] | None = None
) -> tuple[Any, dict[str, Any]]:
    # bodies belong to their world: they go first
    env._destroy()
    env.world = type(env.world)(gravity=env.world.gravity)
    result: tuple[Any, dict[str, Any]] = type(env).reset(env, seed=seed, options=options)
    return result
