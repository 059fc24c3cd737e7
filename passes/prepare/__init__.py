"""See the table in edgec.passes."""
