"""The Q-network and its updates as compiled kernels on raw arrays."""
