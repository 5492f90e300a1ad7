"""Result files: one typed model a kind, that commands write and the report reads. Nothing here imports torch."""
