"""The Compare tab: contestants under fair rules, looked at, counted, voted on, and grids of pictures."""
