"""The language of specs: YAML with expressions, and sections that become nodes."""
