"""Tokenizers, one readable file a method."""
