"""The code model: what source files define, where modules come from, and who reaches whom."""
