"""A target of a test: one folder, and one row in the table of targets."""
