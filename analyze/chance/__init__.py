"""Is it chance, does it hold between sequences, does it grow with tokens: questions to the same peaks."""
