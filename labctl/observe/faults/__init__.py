"""What is broken on purpose, and put back: by the command line, by checks and in Python the same way."""
