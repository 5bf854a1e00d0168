"""One run: the step, the loop around it, its checkpoints, and how Ray runs it."""
