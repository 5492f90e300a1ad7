"""What a machine can do to a command: kill it, fill its disk, take its memory, move its clock."""
