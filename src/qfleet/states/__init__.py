"""From the observations of environments that are stepped in Python to the rows of a table."""
