"""Folders on disk: written at once, locked, checked on opening; runs are such folders."""
