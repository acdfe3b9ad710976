"""Photos and scenes: reading them safely, and drawing some with known truth."""
