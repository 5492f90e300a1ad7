"""Damaged and hostile files, read by every parser: see docs/reliability.md."""
