"""What the v1 and contrib faces share: graph variables, scopes, collections and update ops around the core."""
