"""The main job: explain photos, as records, numbers, pages and in the terminal."""
