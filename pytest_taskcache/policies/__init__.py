"""What goes into a key."""
