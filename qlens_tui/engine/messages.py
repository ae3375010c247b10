"""Requests, events and what they carry, under one name for whoever handles many of them.

Nothing is defined here: `requests` and `events` say what flows, `lens_core.signature` and
`lens_core.terms` what an answer is.
"""
# ruff: noqa: F403

from lens_core.signature import *
from lens_core.terms import *
from qlens_tui.engine.events import *
from qlens_tui.engine.requests import *
