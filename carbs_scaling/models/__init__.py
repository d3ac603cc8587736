"""Model families, one file each: shape, FLOPs, memory, construction."""
