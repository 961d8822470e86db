"""Compare models with their published code, which is read as text and never run."""
