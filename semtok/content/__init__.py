"""Item content to vectors: encoders, folders of vectors, shards, vectors of behaviour."""
