"""What can be proved, stated with a confidence, or estimated about the radius within which an answer cannot change."""
