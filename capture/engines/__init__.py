"""Ways to run a model's layers. Each hands hidden states to one sink; their bits are the same."""
