"""Scripts that exports carry."""
