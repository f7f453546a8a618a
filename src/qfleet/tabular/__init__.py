"""Q-tables: update rules and kernels on raw arrays, and exact solutions."""
