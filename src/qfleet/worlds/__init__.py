"""Worlds that compiled kernels step, by name or in arrays."""
