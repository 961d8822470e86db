"""Files of a model folder or a hub, read as hostile input."""
