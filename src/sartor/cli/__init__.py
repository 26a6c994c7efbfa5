"""The command line: fit, show, pick, export, measure, methods, reproduce."""
