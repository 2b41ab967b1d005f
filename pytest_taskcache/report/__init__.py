"""Events and explanations, formatted for people. Knows no pytest."""
