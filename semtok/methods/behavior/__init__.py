"""Behaviour-bound codes (BBQRec): its batches, its network, and the tokenizer that trains it."""
