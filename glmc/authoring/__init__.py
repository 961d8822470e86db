"""``glmc specs``: tools for the person who adds an architecture."""
