"""How fast this machine trains and evaluates, beside its own limit."""
