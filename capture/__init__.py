"""Phase one: run a language model once over fixed tokens and write its hidden states to a run store.

Needs the ``[capture]`` extra (torch, transformers, datasets). Never imports ``analyze``.
"""
