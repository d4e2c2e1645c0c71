"""One file a verb phrase: the story of one operation from top to bottom."""
