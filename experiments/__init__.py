"""The command line: trains teachers, distils students, evaluates and reports."""
