"""What every recommender stands on: interactions, splits, sequences, training, evaluation.

Nothing in here names a model or a quantizer, and importing it loads nothing heavy: import the files you need.
"""

__version__ = "0.1.0"
