"""Hours of kills, damage and bad input: `python -m tests.soak --help`."""
