"""What goes together: adapters, tasks, bases and privacy engines, found by trying each of them."""
