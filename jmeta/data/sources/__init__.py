"""One page a data set or family of them."""
