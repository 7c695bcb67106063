"""The numerical scheme: numba kernels for links, nodes and whole networks.

Finite volumes for the two-class ARZ model: MUSCL reconstruction in (density, w), demand and supply at faces, SSP-RK2, exact
relaxation. No density is clipped, the time step is fixed in advance, and the same kernel serves one environment and a batch.
"""
