"""Data sets: one file a family; those that share MVTec's layout share one."""
