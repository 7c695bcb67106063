"""Turn live training state at a cut into plain data, and back.

`objects` describes Python object graphs, `codec` writes descriptions as JSON plus raw arrays, and the other modules know
one kind of state each: random number generators, environments, Stable-Baselines3 models. Nothing here knows files.
"""
