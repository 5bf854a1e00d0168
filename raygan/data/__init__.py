"""Photos, pairs of photos, and the crops that are cut from them."""
