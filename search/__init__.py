"""Search: the fastest settings of the kernels on a machine, by measuring and by learning from it."""
