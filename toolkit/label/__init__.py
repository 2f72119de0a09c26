"""The page on which people rank collected answers, and its file of rankings."""
