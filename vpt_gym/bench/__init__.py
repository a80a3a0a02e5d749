"""What `vpt-gym bench` measures: speed beside rivals and the machine's own limit, memory, and what a precision costs."""
