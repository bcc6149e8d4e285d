"""Everything that a report or a figure shows of one or several stores, as one object of plain data."""
