"""The command line. Each command parses its arguments, calls one function and prints."""

from .app import main

__all__ = ["main"]
