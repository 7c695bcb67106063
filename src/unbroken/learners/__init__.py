"""Build and drive what learns. `sb3` knows every Stable-Baselines3 and sb3-contrib algorithm that has the usual loop."""
