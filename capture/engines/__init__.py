"""Ways to run a model's layers. Each hands hidden states to one sink; their bits are the same."""

ENGINES = ("auto", "resident", "streamed", "lockstep")
"""What ``--engine`` takes; ``capture.plan.choose_engine`` decides for ``auto``."""
