"""Files: atomic writes, locks, and readers that never run what a file holds."""
