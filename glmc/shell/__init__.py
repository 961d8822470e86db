"""Options that commands share, and text laid out for a terminal."""
