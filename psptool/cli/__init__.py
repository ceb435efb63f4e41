"""The command line: flags to a schema, one call, what to print."""
