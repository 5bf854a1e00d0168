"""How long something still takes, for people."""

from __future__ import annotations


def time_left(seconds: float) -> str:
    """A duration for people."""
    if seconds == 0:
        return "done"
    if seconds < 90:
        return f"about {max(1, round(seconds))} s left"
    return f"about {seconds / 60:.0f} min left" if seconds < 5400 else f"about {seconds / 3600:.1f} h left"
