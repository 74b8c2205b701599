"""Data sets: events and items read from any source, as histories of item numbers."""
