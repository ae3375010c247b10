"""Requests, events and the core's result classes, in one namespace for modules that use many.

Nothing is defined here: see `requests`, `events`, `lens_core.signature`, `lens_core.evidence`,
`lens_core.comparison`, `lens_core.resemblance`, `lens_core.steered`, `lens_core.terms` and
`lens_core.token_query`.
"""
# ruff: noqa: F403

from lens_core.comparison import *
from lens_core.evidence import *
from lens_core.resemblance import *
from lens_core.signature import *
from lens_core.steered import *
from lens_core.terms import *
from lens_core.token_query import *
from qlens_tui.engine.events import *
from qlens_tui.engine.requests import *
