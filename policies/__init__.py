"""Decisions: which step next, or stop. Pure functions of plain data, numpy only, told the time instead of asking."""
