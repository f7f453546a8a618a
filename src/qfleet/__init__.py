"""Parallel and distributed Q-learning."""
