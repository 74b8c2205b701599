"""Training: the loop, its state on disk, several processes, and how it is stopped and gone on with."""
