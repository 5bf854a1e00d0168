"""Using a trained denoiser: on arrays, on image files, and as an exported program."""
