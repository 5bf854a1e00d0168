"""Using a trained denoiser: on arrays, on image files, over HTTP, and as an exported program."""
