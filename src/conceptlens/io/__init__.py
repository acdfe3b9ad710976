"""Files and failures: errors, atomic writes, saved folders, image files, the cache of what can be made again."""
