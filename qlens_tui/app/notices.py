"""How long a notice stays on the screen."""

from __future__ import annotations

LONG = 12.0
"""Seconds, for one that names files or says what to do; others stay for Textual's usual five."""
