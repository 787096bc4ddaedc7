"""A long run: many small instances over many associations, and nothing grows (`make soak`)."""
