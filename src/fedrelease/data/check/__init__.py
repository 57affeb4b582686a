"""A user's own rows, looked at before anybody trains on them: what was understood, and what to fix."""
