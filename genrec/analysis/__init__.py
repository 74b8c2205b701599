"""What spaces of item vectors have in common."""
