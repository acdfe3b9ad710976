"""What an analysis of a store leaves behind: tables, figures, pages."""
