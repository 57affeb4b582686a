"""A partner site on a machine of its own: folder, identity, processes."""
