"""Parts of networks that every model may use: losses, blocks of a transformer, counted draws."""
