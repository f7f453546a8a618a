"""The folder of a run: its config, checkpoints, metrics and report. Trees of arrays and numbers, no learning."""
