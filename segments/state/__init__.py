"""From events to integers: ids, columns, the layout of a row, the fold, and the read-out, where floats begin."""
