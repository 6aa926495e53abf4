"""The decisions about batches: which windows run next, the size of a batch, and the health of lanes."""
