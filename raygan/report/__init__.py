"""A study's folder as tables, figures, a page, and runs of experiment trackers."""
