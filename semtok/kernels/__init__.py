"""The numerical ground of the tokenizers: k-means, balanced assignment, residual quantization, CLUB."""
