"""Many runs: the space, the searcher and scheduler, and the study that holds them."""
