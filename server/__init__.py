"""Rounds, spool, release store, and the one adapter to Flower's ServerApp."""
