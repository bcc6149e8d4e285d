"""Between models: stores beside each other, beside what was published, in families, and two against each other."""
