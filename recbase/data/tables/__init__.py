"""One table file of any format, read as columns of strings, numbers and moments."""
