"""The scheme against exact solutions and traffic engineering's figures; `python -m unbroken.traffic.verification` writes the page.

Exact solutions are in `riemann`, errors and orders in `convergence`, measurements on networks in `experiments`. Nothing here takes
part in a simulation.
"""
