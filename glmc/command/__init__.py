"""The command line: its menu, its options, and what carries each command out."""
