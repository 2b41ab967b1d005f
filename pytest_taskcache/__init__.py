"""Never compute the same thing twice in a test suite."""
