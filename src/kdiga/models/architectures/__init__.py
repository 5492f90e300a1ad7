"""The built-in architectures: every module of this package registers a family of names with one builder."""
