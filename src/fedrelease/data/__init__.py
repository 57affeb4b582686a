"""Sources of rows, partitions into sites, and tokenised rows on disk."""
