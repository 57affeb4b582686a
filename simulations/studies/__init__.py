"""Ready experiment files."""
