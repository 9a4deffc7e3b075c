"""PostgreSQL queries as points."""
