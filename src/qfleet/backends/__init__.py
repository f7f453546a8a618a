"""Where workers run; nothing about learning."""
