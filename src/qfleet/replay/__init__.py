"""What was experienced, and how it is drawn again."""
