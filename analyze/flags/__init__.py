"""The command's flags, by what they are about."""
