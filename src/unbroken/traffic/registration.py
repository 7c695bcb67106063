"""Names of our environments in Gymnasium's registry; nothing heavy is imported."""

from __future__ import annotations

ENVIRONMENTS = {
    "traffic_light_control": "TrafficLightControlEnv",
    "ramp_metering": "RampMeteringEnv",
    "adaptive_speed_control": "AdaptiveSpeedControlEnv",
}


def full_id(name: str) -> str:
    """Gymnasium's id of a scenario: `unbroken/ramp_metering-v0`."""
    return f"unbroken/{name}-v0"


def register() -> None:
    """Register all; a second time does nothing."""
    from gymnasium.envs.registration import register as add
    from gymnasium.envs.registration import registry

    for name, class_name in ENVIRONMENTS.items():
        if full_id(name) not in registry:
            add(id=full_id(name), entry_point=f"unbroken.traffic.environments:{class_name}")
