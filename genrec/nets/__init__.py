"""Encoders, decoders and their parts."""
