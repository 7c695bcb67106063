"""Tools for testing storage backends: the contract, faults, kills and simulated power loss.

Public, so that a backend written elsewhere can be held to the same promises. Nothing here imports pytest.
"""
