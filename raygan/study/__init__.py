"""A study's folder: its files, here or in a bucket, what is read from them, its lock and its trials."""
