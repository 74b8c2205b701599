"""The catalogue as a trie, and beam search over it."""
