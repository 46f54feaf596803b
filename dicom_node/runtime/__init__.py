"""The running program: the supervisor of the processes and the scheduler of periodic work."""
