"""Bases, adapters and tasks."""
