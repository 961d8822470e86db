"""Views of a build: its stages, sizes, values, lines and least times."""
