"""What is said of codes: measures, tables, one page."""
