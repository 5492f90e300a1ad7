"""A verdict on each claim, computed from what the runs left by rules that were fixed before them."""
