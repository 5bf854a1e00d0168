"""A study's folder: its files, what is read from them, its lock and its trials."""
