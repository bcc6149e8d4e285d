"""Phase two: answer outlier criteria from a run store alone, out of core, without the model or torch.

Never imports ``capture``.
"""
