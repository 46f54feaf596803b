"""Actions and listings for an administrator; shared by the command line and the pages."""
