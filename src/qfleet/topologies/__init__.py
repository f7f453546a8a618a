"""Who learns and what they tell one another; one file a topology."""
