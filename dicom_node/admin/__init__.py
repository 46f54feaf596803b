"""What an administrator does and reads; shared by the command line and the pages."""
