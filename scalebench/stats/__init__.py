"""Pure statistics: intervals of cells and of ratios of cells, and which cell is best."""
