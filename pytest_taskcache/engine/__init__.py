"""Get or compute: decisions are pure functions, the I/O around them is thin."""
