"""A run's folder: config, checkpoints, metrics, report. Trees of arrays and numbers, no learning."""
