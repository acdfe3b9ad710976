"""Loc-CBM (ICCV 2025): concept bottleneck models whose concepts have maps; fitting, evaluation, edits, pages."""
