"""Maps of concepts compared with masks of them: methods, controls, tables and a page."""
