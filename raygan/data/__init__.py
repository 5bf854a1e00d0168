"""Photos, crops and noise."""
