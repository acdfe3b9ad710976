"""What an evaluation of a bottleneck leaves behind: tables, pictures, the page."""
