"""What the documentation shows runs as written."""
