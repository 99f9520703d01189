"""What the page's small events have in common."""

from __future__ import annotations

# Events that answer at once, beside the queue, and are no part of the API. The page shows none of their errors.
QUIET = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
