"""The command line: thin, one file a command."""

from kdiga.cli.app import main

__all__ = ["main"]
