"""A checkpoint's weights, one decoder layer at a time: where each tensor lies, where it goes, and how it gets there."""
