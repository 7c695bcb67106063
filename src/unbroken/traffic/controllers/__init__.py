"""Baselines. A controller acts on every copy of a simulation alike and sees what an engineer's controller would see."""
