"""Analysis of a store: how well each layer separates concepts, as data that tables, figures and a page show."""
