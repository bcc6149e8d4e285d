"""Tables as data, and the words that stand in and below them; analyze/formats renders them."""
