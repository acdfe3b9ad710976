"""Results for people and programs: numbers, tables in the terminal, the HTML page."""
