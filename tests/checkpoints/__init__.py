"""Tiny random checkpoints of real architectures in their original on-disk format, and outliers planted in them."""

from .architectures import ARCHITECTURES, MAXIMUM_POSITIONS, SITES, VOCABULARY_SIZE, Architecture, Site
from .folder import write_checkpoint
from .forward import site_inputs
from .planting import DEFAULT_GAIN, Cell, Edit, in_turn, norm_name, planted, planted_cells
from .tokenizer import BEGIN_OF_TEXT, END_OF_TEXT, write_tokenizer

__all__ = [
    "ARCHITECTURES",
    "BEGIN_OF_TEXT",
    "DEFAULT_GAIN",
    "END_OF_TEXT",
    "MAXIMUM_POSITIONS",
    "SITES",
    "VOCABULARY_SIZE",
    "Architecture",
    "Cell",
    "Edit",
    "Site",
    "in_turn",
    "norm_name",
    "planted",
    "planted_cells",
    "site_inputs",
    "write_checkpoint",
    "write_tokenizer",
]
