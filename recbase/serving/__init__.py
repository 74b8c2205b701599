"""Trained recommenders in use: asked in raw ids, one by one or in files, from Python or over HTTP."""
