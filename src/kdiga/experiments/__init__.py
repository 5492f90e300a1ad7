"""Many runs in one folder: studies, tuning, curves and the paper's claims."""
