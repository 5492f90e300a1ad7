"""Damaged and hostile files, read by every parser: see docs/hostile-files.md."""
