"""Registers our environments with Gymnasium, as Gymnasium wants it: `import unbroken.envs`, then `gymnasium.make("unbroken/...")`.

The one module of which the import does something; it imports no simulator.
"""

from unbroken.traffic.registration import register

register()
