"""Do maps point at what a concept names: methods against masks, with controls, tables and a page."""
