"""How long a notice stays on the screen."""

from __future__ import annotations

LONG = 12.0
"""Seconds for notices that name files or say what to do; others use Textual's five seconds."""
