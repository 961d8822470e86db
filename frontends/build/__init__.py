"""A spec and a config to a Model."""
