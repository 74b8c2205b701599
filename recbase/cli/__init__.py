"""Parts that commands share: options read from signatures, checks of values, what is printed."""
