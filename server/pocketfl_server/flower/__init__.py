"""Flower carries shards' sealed partial sums: a ServerApp orchestrates, a ClientApp fronts a shard."""
