"""What a server and its partner sites share when they run on machines of their own."""
