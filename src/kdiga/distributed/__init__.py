"""Several processes: launch, process group, shards of a batch, synchronised batch norm, random streams."""
