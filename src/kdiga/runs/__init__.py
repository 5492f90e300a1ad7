"""Run folders: their content, provenance, and work that resumes."""
