"""What every HTML page shares: the base style, the static page, outlined masks."""
