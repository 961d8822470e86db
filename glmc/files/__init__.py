"""Files of a build: read as foreign input, replaced in one step."""
