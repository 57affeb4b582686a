"""A server that partner sites reach over a network: folders, identities, processes."""
