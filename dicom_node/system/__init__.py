"""The operating system's side: child processes and the election of one leader."""
