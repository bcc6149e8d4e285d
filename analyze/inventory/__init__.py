"""What a store is and what it can answer, from its metadata and commit log, whether it is finished or not."""
