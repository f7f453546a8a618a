"""The command line: every sub-command is a module here, and none does what the library cannot."""
