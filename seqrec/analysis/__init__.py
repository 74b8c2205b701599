"""What trained models and their spaces are like."""
