"""How the errors of libraries are told inside a message of our own."""

from __future__ import annotations


def one_line(error: Exception) -> str:
    """What it says, without line breaks and in up to 160 characters; its type if it says nothing."""
    return " ".join(str(error).split())[:160] or type(error).__name__
